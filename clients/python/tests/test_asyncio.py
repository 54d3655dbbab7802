"""The client for asyncio and both kinds of middleware, against a real server with a memory store."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from grpc import aio
from holdgate import Ask, AsyncQuota, Posture, Quota, QuotaAway, Refused
from holdgate.asgi import HOLD_KEY, AsgiQuota, Event, Receive, Send
from holdgate.wsgi import Environ, StartResponse, WsgiQuota
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import quota_service_pb2 as quota
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from server.bootstrap import running
from server.settings import from_flags

POLICY = Path(__file__).parents[2] / "golden" / "policy.yaml"
ASK = Ask(tenant="acme", action="job", amounts={"credits": 10}, request_id="h-1")
NOBODY = "127.0.0.1:9"
LEASE_MS = 3000
"""Of the golden policy."""


@pytest.fixture
async def address() -> AsyncIterator[str]:
    settings = from_flags({"listen": "127.0.0.1:0", "policies": (POLICY,), "store": "memory", "drain_seconds": 0})
    async with running(settings) as app:
        async with aio.insecure_channel(app.address) as channel:
            account = admin.Account(plan="free")
            await AdminServiceStub(channel).PutAccount(admin.PutAccountRequest(tenant="acme", account=account))
        yield app.address


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncQuota]:
    async with AsyncQuota(address, within_s=10, attempt_s=5) as client:
        yield client


async def left(address: str) -> tuple[int, int]:
    """Credits that remain, and places that are taken."""
    async with aio.insecure_channel(address) as channel:
        usage = await QuotaServiceStub(channel).GetUsage(quota.GetUsageRequest(tenant="acme"))
    figures = {limit.id: limit for limit in usage.limits}
    return figures["credits"].remaining, figures["jobs"].used


async def test_a_hold_is_settled_for_what_was_used(client: AsyncQuota, address: str) -> None:
    async with client.hold(ASK) as hold:
        hold.report(credits=4)
        assert await left(address) == (90, 1)
    assert await left(address) == (96, 0)


async def test_a_hold_is_released_when_its_block_fails(client: AsyncQuota, address: str) -> None:
    with pytest.raises(RuntimeError):
        async with client.hold(ASK):
            raise RuntimeError
    assert await left(address) == (100, 0)


async def test_a_hold_is_released_when_its_task_is_cancelled(client: AsyncQuota, address: str) -> None:
    taken = asyncio.Event()

    async def work() -> None:
        async with client.hold(ASK):
            taken.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await taken.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await left(address) == (100, 0)


async def test_a_lease_is_kept_past_its_end(client: AsyncQuota, address: str) -> None:
    async with client.hold(ASK) as hold:
        await asyncio.sleep(3.5)  # the lease is 3 s; nothing else tells that it would have ended
        hold.report(credits=4)
    assert await left(address) == (96, 0)
    async with aio.insecure_channel(address) as channel:
        found = await AdminServiceStub(channel).GetHold(admin.GetHoldRequest(tenant="acme", hold_id="h-1"))
    assert found.hold.state == quota.HOLD_STATE_SETTLED


async def test_first_renewal_precedes_expiry(client: AsyncQuota, address: str) -> None:
    """The caller keeps its loop busy all the time: the lease is renewed in its first half, by the server's clock."""
    async with aio.insecure_channel(address) as channel, client.hold(ASK):

        async def lease_ends_at_ms() -> int:
            found = await AdminServiceStub(channel).GetHold(admin.GetHoldRequest(tenant="acme", hold_id="h-1"))
            return found.hold.lease_ends_at_ms

        first_ms = renewed_ms = await lease_ends_at_ms()
        while renewed_ms == first_ms:
            busy_until_s = time.monotonic() + 0.1
            while time.monotonic() < busy_until_s:
                pass
            renewed_ms = await lease_ends_at_ms()
    assert renewed_ms - first_ms < LEASE_MS / 2


async def test_a_refusal_is_raised(client: AsyncQuota) -> None:
    with pytest.raises(Refused) as raised:
        async with client.hold(Ask(tenant="acme", action="job", amounts={"credits": 61})):
            pytest.fail("the block must not run")
    assert raised.value.decision.refusal.code == "too_large"


async def test_without_a_server_the_posture_decides() -> None:
    async with (
        AsyncQuota(NOBODY, within_s=0.2) as closed,
        AsyncQuota(NOBODY, within_s=0.2, posture=Posture.OPEN) as opened,
    ):
        with pytest.raises(QuotaAway):
            async with closed.hold(ASK):
                pytest.fail("the block must not run")
        async with opened.hold(ASK) as hold:
            assert hold.degraded


class Sent:
    """What an ASGI application sent."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def status(self) -> int:
        return int(self.events[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.events[0]["headers"])


async def nothing_more() -> Event:
    return {"type": "http.disconnect"}


def asgi(client: AsyncQuota, status: int, ask: Ask | None = ASK) -> AsgiQuota:
    async def app(scope: Event, _receive: Receive, send: Send) -> None:
        if HOLD_KEY in scope:
            scope[HOLD_KEY].report(credits=4)
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"done"})

    return AsgiQuota(app, client, lambda _scope: ask)


async def test_an_asgi_application_is_settled_when_it_has_answered(client: AsyncQuota, address: str) -> None:
    sent = Sent()
    ask = Ask(tenant="acme", action="call")
    await asgi(client, 200, ask)({"type": "http"}, nothing_more, sent)
    assert sent.status == 200
    assert sent.headers == {b"x-own": b"1", b"x-remaining": b"2"}
    await asgi(client, 200)({"type": "http"}, nothing_more, sent)
    assert await left(address) == (96, 0)


async def test_an_asgi_application_that_failed_is_released(client: AsyncQuota, address: str) -> None:
    sent = Sent()
    await asgi(client, 502)({"type": "http"}, nothing_more, sent)
    assert sent.status == 502
    assert await left(address) == (96, 0)  # what it reported stays charged; the rest is back


async def test_what_is_free_is_not_asked_about(client: AsyncQuota, address: str) -> None:
    sent = Sent()
    await asgi(client, 200, None)({"type": "http"}, nothing_more, sent)
    assert sent.status == 200
    assert await left(address) == (100, 0)


async def test_an_asgi_application_is_not_run_when_refused_or_undecided(client: AsyncQuota) -> None:
    sent = Sent()
    await asgi(client, 200, Ask(tenant="acme", action="job", amounts={"credits": 61}))(
        {"type": "http"}, nothing_more, sent
    )
    assert sent.status == 413
    assert b"too_large" in sent.events[1]["body"]
    sent = Sent()
    async with AsyncQuota(NOBODY, within_s=0.2) as away:
        await asgi(away, 200)({"type": "http"}, nothing_more, sent)
    assert (sent.status, sent.headers[b"retry-after"]) == (503, b"1")


def wsgi_answer(address: str, status: str, ask: Ask) -> tuple[str, dict[str, str], bytes]:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ[HOLD_KEY].report(credits=4)
        start_response(status, [("X-Own", "1")])
        return [b"done"]

    told: dict[str, Any] = {}

    def start(line: str, headers: list[tuple[str, str]]) -> None:
        told.update(status=line, headers=dict(headers))

    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    with Quota(address, within_s=10, attempt_s=5) as client:
        body = b"".join(WsgiQuota(app, client, lambda _environ: ask)(environ, start))
    return told["status"], told["headers"], body


async def test_a_wsgi_application_is_settled_refused_or_released(address: str) -> None:
    answer = await asyncio.to_thread(wsgi_answer, address, "200 OK", ASK)
    assert answer == ("200 OK", {"X-Own": "1"}, b"done")
    assert await left(address) == (96, 0)
    too_large = Ask(tenant="acme", action="job", amounts={"credits": 61})
    status, _, body = await asyncio.to_thread(wsgi_answer, address, "200 OK", too_large)
    assert status.startswith("413 ")
    assert b"too_large" in body
    failed = Ask(tenant="acme", action="job", amounts={"credits": 20})
    assert (await asyncio.to_thread(wsgi_answer, address, "500 Oh no", failed))[0] == "500 Oh no"
    assert await left(address) == (92, 0)  # what it reported stays charged; the rest is back
