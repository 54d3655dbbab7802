"""Whatever is in a message, a server answers it or says what is wrong with it; it fails at nothing, and it stays."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc import StatusCode, aio
from quota.v1 import admin_service_pb2, quota_service_pb2

from tests.conftest import Figure
from tests.faults.messages import messages
from tests.faults.sizes import size
from tests.store_state import broken_rules, snapshot
from tests.stores import running_store
from tests.system.gateway import Gateway
from tests.system.servers import channels_to, serving

BROKEN: Final = {StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS, StatusCode.UNAVAILABLE}
"""What a caller must not bring about by what it says."""
AT_ONCE: Final = 8
WITHIN_S: Final = 20.0

METHODS: Final = [
    method
    for file, service in ((quota_service_pb2, "QuotaService"), (admin_service_pb2, "AdminService"))
    for method in file.DESCRIPTOR.services_by_name[service].methods
    if not method.server_streaming and not method.client_streaming
]


async def send(channel: aio.Channel, method: MethodDescriptor, raw: bytes) -> tuple[StatusCode, str]:
    call: Any = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
    try:
        await call(raw, timeout=WITHIN_S)
    except aio.AioRpcError as error:
        return error.code(), str(error.details())
    return StatusCode.OK, ""


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_no_message_makes_a_server_fail(tmp_path: Path, transport: str, figure: Figure) -> None:
    each = size(10, 30, 30_000 // len(METHODS))
    statuses: Counter[StatusCode] = Counter()
    with running_store("--appendonly", "no") as store:
        async with (
            serving(tmp_path, "--transport", transport, "--redis-url", store.url) as server,
            channels_to(server.address, each=AT_ONCE) as channels,
        ):
            await Gateway(channels[0]).open_account(1_000_000)

            async def part(number: int) -> None:
                random = Random(f"{number}")  # noqa: S311  # the same messages in every run
                for method in METHODS:
                    kind = message_factory.GetMessageClass(method.input_type)
                    source = messages(kind, random)
                    for _ in range(max(each // AT_ONCE, 1)):
                        raw = next(source)
                        code, details = await send(channels[number], method, raw)
                        statuses[code] += 1
                        assert code not in BROKEN, (method.full_name, raw, code, details)

            await asyncio.gather(*(part(number) for number in range(AT_ONCE)))
            await Gateway(channels[0]).poll()
            log = server.log()
        assert broken_rules(snapshot(store)) == []
    assert "Traceback" not in log
    assert statuses[StatusCode.OK]
    assert statuses[StatusCode.INVALID_ARGUMENT]
    figure(f"{transport}: {sum(statuses.values()):,} messages to {len(METHODS)} methods, 0 failures")
