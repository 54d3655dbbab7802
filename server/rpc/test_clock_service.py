"""Sets the time of a server that was started with --test-clock."""

from collections.abc import Callable
from typing import Final

from grpc import aio
from quota.v1 import test_clock_service_pb2, test_clock_service_pb2_grpc

from server.domain.errors import InvalidRequestError
from server.domain.units import MAX_AMOUNT
from server.rpc.calls import answering

NAME: Final = test_clock_service_pb2.DESCRIPTOR.services_by_name["TestClockService"].full_name
"""The service's full name."""


class TestClockService(test_clock_service_pb2_grpc.TestClockServiceServicer):
    """Serves quota.v1.TestClockService; `set_time_ms` moves the clock that all decisions use."""

    name = NAME
    new_work = ()

    def __init__(self, set_time_ms: Callable[[int], None], store_timeout_s: float) -> None:
        self._set_time_ms = set_time_ms
        self.store_timeout_s = store_timeout_s

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""
        test_clock_service_pb2_grpc.add_TestClockServiceServicer_to_server(self, server)

    @answering
    async def SetTime(
        self, request: test_clock_service_pb2.SetTimeRequest, _within_s: float
    ) -> test_clock_service_pb2.SetTimeResponse:
        """Sets the time, in milliseconds since the epoch."""
        if not 1 <= request.now_ms <= MAX_AMOUNT:
            raise InvalidRequestError.of("now_ms", f"is {request.now_ms}; must be from 1 to 2^53 - 1")
        self._set_time_ms(request.now_ms)
        return test_clock_service_pb2.SetTimeResponse()
