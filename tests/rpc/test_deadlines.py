"""A caller's deadline ends its call, and with it all that the server did for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from grpc import StatusCode, aio
from quota.v1.quota_service_pb2 import CheckAndReserveRequest
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import running
from server.engine import guarded_store
from server.settings import Transport
from tests.rpc.conftest import MakeSettings
from tests.stores import RunningStore, running_store
from tests.waiting import until

GRID_MS: Final = (5, 10, 20, 50, 100)
CALLS: Final = 25


@asynccontextmanager
async def frozen_behind(store: RunningStore) -> AsyncIterator[None]:
    store.freeze()
    try:
        yield
    finally:
        store.thaw()


@pytest.mark.parametrize("transport", [Transport.ASGI, Transport.GRPCIO])
async def test_nothing_is_left_running_for_a_caller_whose_deadline_has_passed(
    transport: Transport, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is silent; callers wait for 5 to 100 ms. The breaker would spare them the wait, and is kept from it."""
    monkeypatch.setattr(guarded_store, "FAILURES_TO_OPEN", 10**9)
    with running_store() as store:
        settings = make_settings(store="redis", redis_url=store.url, transport=transport, test_clock=False)
        async with running(settings) as app, aio.insecure_channel(app.address) as channel:
            quota = QuotaServiceStub(channel)
            known = CheckAndReserveRequest(tenant="acme", action="poll")
            await quota.CheckAndReserve(known)  # the account is known: what follows asks the store once
            async with frozen_behind(store):
                before = len(asyncio.all_tasks())
                for deadline_ms in GRID_MS:
                    ends = await asyncio.gather(*(end_of(quota, known, deadline_ms) for _ in range(CALLS)))
                    assert set(ends) <= {StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE}
                    await until(lambda: len(asyncio.all_tasks()) <= before, what="the calls' tasks to end")
            assert (await quota.CheckAndReserve(known)).decision.outcome


async def end_of(quota: QuotaServiceStub, request: CheckAndReserveRequest, deadline_ms: int) -> StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await quota.CheckAndReserve(request, timeout=deadline_ms / 1000)
    return caught.value.code()
