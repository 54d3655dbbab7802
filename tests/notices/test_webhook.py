"""The webhook: each note is told once or more, signed, in order, however often server and endpoint go away."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from server.bootstrap import StartError
from server.engine.subscription import Subscription
from server.jobs.webhook import delivery, lanes
from tests.notices.conftest import OpenServer, Server
from tests.notices.receiver import Received, Receiver, receiving
from tests.stores import ROOT, RunningStore, free_port
from tests.waiting import until

SECRET: Final = b"a secret of thirty-two bytes, so."
SECRET_LINE: Final = f"whsec_{b64encode(SECRET).decode()}"
OLD_LINE: Final = f"whsec_{b64encode(b'another one, of thirty-two bytes').decode()}"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(lanes, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(delivery, "RENEW_S", 0.05)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def secret_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A file with one secret, or with what a test is parametrized with."""
    path = tmp_path / "webhook-secrets"
    path.write_text(getattr(request, "param", f"{SECRET_LINE}\n"))
    return path


def verify() -> Callable[..., Any]:
    """The function that the documentation gives to receivers."""
    text = (ROOT / "docs" / "notifications.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def verified" in block)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # our own documentation
    return names["verified"]  # type: ignore[no-any-return]  # whatever it defines


async def told(receiver: Receiver, count: int) -> list[tuple[str, int]]:
    await until(lambda: len(receiver.taken) >= count, what=f"{count} messages, where there are {receiver.told}")
    return receiver.told


async def test_a_crossing_is_told_and_signed_as_the_documentation_says(
    open_server: OpenServer, receiver: Receiver, secret_file: Path
) -> None:
    async with open_server(webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        await server.use(100, project="p 1")
        await told(receiver, 4)
        notes = await server.listed()
    verified = verify()
    for got in receiver.taken:
        assert got.path == "/hooks?source=quota"
        assert verified(got.headers, got.body, [SECRET_LINE]) == got.content
        assert verified(got.headers, got.body, [OLD_LINE, SECRET_LINE]) == got.content
    assert [got.content["data"]["id"] for got in receiver.taken] == [note.id for note in notes]
    assert len({got.headers["webhook-id"] for got in receiver.taken}) == 4
    last = receiver.taken[-1].content
    assert (last["type"], last["timestamp"][-6:]) == ("quota.threshold_reached", "+00:00")
    assert {
        name: last["data"][name] for name in ("policy", "tenant", "limit_id", "scope", "percent", "limit", "used")
    } == {
        "policy": "notices",
        "tenant": "o1",
        "limit_id": "project-frames",
        "scope": {"project": "p 1"},
        "percent": 10,
        "limit": 1000,
        "used": 100,
    }


async def test_what_was_changed_on_the_way_or_is_old_or_not_ours_is_not_taken_for_verified(
    open_server: OpenServer, receiver: Receiver, secret_file: Path
) -> None:
    async with open_server(webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        await server.use(50)
        await told(receiver, 1)
    verified, got = verify(), receiver.taken[0]
    sent_at = int(got.headers["webhook-timestamp"])
    for headers, body, secrets in (
        (got.headers, got.body.replace(b"50", b"51"), [SECRET_LINE]),
        ({**got.headers, "webhook-id": "msg_other"}, got.body, [SECRET_LINE]),
        ({**got.headers, "webhook-timestamp": str(sent_at - 301)}, got.body, [SECRET_LINE]),
        ({**got.headers, "webhook-signature": "v1,AAAA v2,BBBB"}, got.body, [SECRET_LINE]),
        (got.headers, got.body, [OLD_LINE]),
    ):
        with pytest.raises(ValueError, match="webhook"):
            verified(headers, body, secrets)


@pytest.mark.parametrize("secret_file", [f"{OLD_LINE}\n\n{SECRET_LINE}\n"], indirect=True)
async def test_while_secrets_are_exchanged_messages_are_signed_with_both(
    open_server: OpenServer, receiver: Receiver, secret_file: Path
) -> None:
    async with open_server(webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        await server.use(50)
        await told(receiver, 1)
    for secret in (OLD_LINE, SECRET_LINE):
        verify()(receiver.taken[0].headers, receiver.taken[0].body, [secret])


@pytest.mark.parametrize("refusal", [500, 404, 302, 410])
async def test_an_endpoint_that_was_down_is_told_everything_in_order(
    open_server: OpenServer, receiver: Receiver, secret_file: Path, refusal: int
) -> None:
    receiver.answer = lambda _got: refusal
    async with open_server(webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        for tenant in ("o1", "o2", "o3"):
            await server.use(50, tenant)
        for tenant in ("o3", "o1", "o2"):
            await server.use(50, tenant)
        await until(lambda: len(receiver.received) > 20, what="attempts")
        receiver.answer = lambda _got: 204
        assert await told(receiver, 9) == receiver.told
    for tenant in ("o1", "o2", "o3"):
        assert [percent for of, percent in receiver.told if of == tenant] == [50, 80, 100]
    assert len(receiver.told) == 9


async def test_an_endpoint_that_is_not_there_is_found_when_it_is(open_server: OpenServer, secret_file: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks"
    async with open_server(webhook_url=url, webhook_secret_file=secret_file) as server:
        await server.use(100)
        with receiving(port) as receiver:
            assert await told(receiver, 3) == [("o1", 50), ("o1", 80), ("o1", 100)]


async def test_an_endpoint_that_does_not_take_one_tenants_notes_is_told_the_others(
    open_server: OpenServer, receiver: Receiver, secret_file: Path
) -> None:
    receiver.answer = lambda got: 422 if got.what[0] == "odd" else 200
    async with open_server(webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        await server.use(80, "odd")
        for number in range(10):
            await server.use(50, f"o{number}")
        assert await told(receiver, 10) == [(f"o{number}", 50) for number in range(10)]
        receiver.answer = lambda _got: 200
        assert (await told(receiver, 12))[10:] == [("odd", 50), ("odd", 80)]


async def test_decisions_do_not_wait_for_an_endpoint_that_does_not_answer_and_nor_does_the_end(
    open_server: OpenServer, receiver: Receiver, secret_file: Path
) -> None:
    receiver.hangs.clear()
    async with open_server(webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        await server.use(50)
        await until(lambda: bool(receiver.received), what="the first attempt")
        for _ in range(50):
            await server.use(1)
        assert len(receiver.received) == 1
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5


async def use_until_told(server: Server, receiver: Receiver, tenant: str) -> None:
    await server.use(100, tenant)
    await told(receiver, len(receiver.taken) + 3)


async def test_a_server_that_starts_goes_on_where_the_last_one_ended(
    open_server: OpenServer, receiver: Receiver, secret_file: Path, store: RunningStore
) -> None:
    flags = {"webhook_url": receiver.url, "webhook_secret_file": secret_file}
    async with open_server(store) as quiet:
        await quiet.use(50, "before")  # there is no webhook yet, so nobody is to be told of this
        async with open_server(store, **flags) as server:
            await server.use(50, "o1")
            assert await told(receiver, 1) == [("o1", 50)]
        await quiet.use(30, "o1")
        await quiet.use(80, "o2")
        await quiet.use(30, "before")
        async with open_server(store, **flags):
            assert await told(receiver, 5) == [("o1", 50), ("o1", 80), ("o2", 50), ("o2", 80), ("before", 80)]
        async with open_server(store, **flags) as server:
            await server.use(20, "o1")
            assert (await told(receiver, 6))[5:] == [("o1", 100)]
    assert not store.command("KEYS", "hg:*noted")


async def test_of_several_servers_one_tells(
    open_server: OpenServer, receiver: Receiver, secret_file: Path, valkey: RunningStore
) -> None:
    valkey.command("FLUSHALL")
    flags = {"webhook_url": receiver.url, "webhook_secret_file": secret_file}
    async with open_server(valkey, **flags) as one, open_server(valkey, **flags) as other:
        for number in range(20):
            await (one if number % 2 else other).use(100, f"o{number}")
        await told(receiver, 60)
        await one.use(100, "last")
        await told(receiver, 63)
    assert len(receiver.received) == 63
    assert len(set(receiver.told)) == 63


async def test_when_the_one_that_told_dies_another_goes_on_after_its_lease(
    open_server: OpenServer,
    receiver: Receiver,
    secret_file: Path,
    valkey: RunningStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "LEASE_MS", 300)
    valkey.command("FLUSHALL")
    valkey.command("SET", "hg:{webhook}:lease", "a process that died", "PX", "300")
    valkey.command("SET", "hg:{webhook}:since", "0")
    async with open_server(valkey, webhook_url=receiver.url, webhook_secret_file=secret_file) as server:
        await server.use(100)
        assert await told(receiver, 3) == [("o1", 50), ("o1", 80), ("o1", 100)]
    assert valkey.command("EXISTS", "hg:{webhook}:lease") == 0


async def test_what_was_noted_while_nothing_was_heard_is_told_once_it_is(
    open_server: OpenServer,
    receiver: Receiver,
    secret_file: Path,
    valkey: RunningStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at the start of a server, or after its connection broke."""
    monkeypatch.setattr(delivery, "LOOK_AGAIN_S", 600.0)
    hears, opens = asyncio.Event(), Subscription._open  # noqa: SLF001  # there is no other way to keep an ear shut

    async def opens_late(self: Subscription) -> object:
        await hears.wait()
        return await opens(self)

    monkeypatch.setattr(Subscription, "_open", opens_late)
    valkey.command("FLUSHALL")
    valkey.command("SET", "hg:{webhook}:since", "0")
    async with open_server(valkey) as other:
        await other.use(50, "early")
        async with open_server(valkey, webhook_url=receiver.url, webhook_secret_file=secret_file):
            await told(receiver, 1)
            await other.use(50, "late")
            hears.set()
            assert await told(receiver, 2) == [("early", 50), ("late", 50)]


def odd(line: str) -> str:
    return f"{SECRET_LINE}\n{line}\n"


@pytest.mark.parametrize(
    ("secret_file", "complaint"),
    [
        ("", "has no secret"),
        (odd("a secret"), ":2 is no secret"),
        (odd("whsec_%%%"), ":2 is no secret"),
        (odd(f"whsec_{b64encode(b'short').decode()}"), ":2 is no secret"),
        (odd(f"whsec_{b64encode(b'x' * 65).decode()}"), ":2 is no secret"),
    ],
    indirect=["secret_file"],
)
async def test_what_is_no_secret_stops_the_start_and_is_not_shown(
    open_server: OpenServer, secret_file: Path, complaint: str
) -> None:
    with pytest.raises(StartError, match=complaint) as caught:
        async with open_server(webhook_url="https://example.com", webhook_secret_file=secret_file):
            pass
    assert "a secret" not in str(caught.value)
    assert "%%%" not in str(caught.value)


async def test_a_file_of_secrets_that_is_not_there_stops_the_start(open_server: OpenServer, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        async with open_server(webhook_url="https://example.com", webhook_secret_file=tmp_path / "none"):
            pass


def test_the_receiver_tells_a_tenant_and_a_threshold() -> None:
    assert Received("/", {}, b'{"data": {"tenant": "o1", "percent": 80}}').what == ("o1", 80)
