"""A note that nobody takes for a week is given up, and what is behind it goes on."""

from collections.abc import Mapping

import orjson
import pytest

from server.engine.memory_engine import MemoryEngine
from server.jobs.webhook import delivery, lanes
from server.jobs.webhook.delivery import GIVE_UP_MS, Webhook
from server.jobs.webhook.endpoint import EndpointError
from server.policy.knobs import KnobSource
from server.policy.store import PolicyStore
from tests.notices.conftest import POLICY
from tests.notices.test_feed import RULES, use
from tests.tenants import Clock, Tenant
from tests.waiting import until

KEY = b"twenty-four bytes of it."


class Picky:
    """Takes no note of the first threshold."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.taken: list[int] = []

    async def post(self, headers: Mapping[str, str], body: bytes) -> None:
        percent = orjson.loads(body)["data"]["percent"]
        self.asked.append(percent)
        if percent == 50:
            raise EndpointError("answered 500")
        assert headers["webhook-id"].startswith("msg_")
        self.taken.append(percent)


async def test_a_week_old_note_is_tried_once_more_and_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "RENEW_S", 0.02)
    monkeypatch.setattr(lanes, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(lanes, "LONGEST_PAUSE_S", 0.02)
    clock = Clock()
    engine = MemoryEngine(clock)
    policies = PolicyStore.load((POLICY,), KnobSource({}, None))
    tenant, endpoint = Tenant(engine, clock, RULES), Picky()
    async with Webhook(endpoint, [KEY], engine, policies, clock):
        await until(lambda: bool(engine.wakes._listeners), what="the lease")  # noqa: SLF001  # nothing else shows it
        await use(tenant, 80)
        await until(lambda: len(endpoint.asked) > 5, what="attempts")
        assert endpoint.taken == []
        clock.advance(GIVE_UP_MS)
        await until(lambda: endpoint.taken == [80], what="what is behind it")
        again = len(endpoint.asked)
        await use(tenant, 20)
        await until(lambda: endpoint.taken == [80, 100], what="what comes later")
    assert endpoint.asked[again:] == [100]
    assert "webhook.given_up" in capsys.readouterr().out
