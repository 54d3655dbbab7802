"""Health whose watchers do not hold up the end of the server."""

import asyncio
from typing import Final

from grpc import aio
from grpc_health.v1 import health, health_pb2

LIVE: Final = "holdgate.live"
"""Health by this name is SERVING as long as the process answers: without a store and while it drains, too."""


class Health(health.aio.HealthServicer):
    """grpc.health.v1.Health; `end_watches` ends the open streams, which would otherwise use up the whole grace."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[object]] = set()
        self._over = False

    async def Check(  # the method is named as in the proto
        self,
        request: health_pb2.HealthCheckRequest,
        context: aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        """Tells the health of one part now."""
        if request.service == LIVE:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return await super().Check(request, context)

    async def Watch(  # the method is named as in the proto
        self,
        request: health_pb2.HealthCheckRequest,
        context: aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> None:
        """Tells the health of one part now and at each change."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a servicer's method always runs in one
        self._watches.add(task)
        try:
            await super().Watch(request, context)
        except asyncio.CancelledError:
            if not self._over:
                raise
        finally:
            self._watches.discard(task)

    def end_watches(self) -> None:
        """Ends every open stream, with status OK."""
        self._over = True
        for task in self._watches:
            task.cancel()
