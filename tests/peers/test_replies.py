"""Bugs of peers in what is told, that no other test has under its name (`rows.yaml`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from grpc import StatusCode, aio
from proxies.envoy_ratelimit_v3_pb2_grpc import RateLimitServiceStub

from server.domain.policy import Policy
from server.engine.base import Granted
from tests.policies_for_tests import balance, policy, quota, slots, window
from tests.proxies.asking import asked, described
from tests.stores import ROOT
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving
from tests.tenants import Tenant

MakeTenant = Callable[[Policy], Tenant]

GOLDEN: Final = ROOT / "clients" / "golden" / "policy.yaml"


async def test_balance_agrees_with_admission(tenant: MakeTenant) -> None:
    """A look before, the decision and a look after tell the same figures; what is told to be left is granted."""
    lab = tenant(policy(window("rpm", 50), slots("jobs", 9), quota("allowance", 30), balance("credits")))
    await lab.open(credits=25)
    await lab.grant("first", credits=4, frames=7)
    told = (await lab.figures())["credits"]
    left = told.cap - told.used

    before = await lab.look(lab.plan("more", credits=left + 1, frames=1))
    refused = await lab.refusal("more", credits=left + 1, frames=1)
    assert before == refused

    plan = lab.plan("all", credits=left, frames=23)
    answer = await lab.reserve(plan)
    assert isinstance(answer, Granted)
    by_limit = dict(zip((check.limit.id for check in plan.checks), answer.looks, strict=True))
    assert by_limit == await lab.figures()
    assert by_limit["credits"].used == by_limit["credits"].cap


async def test_undecided_is_not_unknown(tmp_path: Path) -> None:
    """A store that is not there, behind Envoy's protocol: no answer is made up, neither OK nor OVER_LIMIT."""
    flags = ("--redis-url", f"unix://{tmp_path}/nobody.sock", "--policies", str(GOLDEN))
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        with pytest.raises(aio.AioRpcError) as raised:
            await RateLimitServiceStub(channel).ShouldRateLimit(asked(described({"org": "acme", "action": "call"})))
        assert raised.value.code() is StatusCode.UNAVAILABLE


async def test_reply_usage_and_message_tell_one_balance(tmp_path: Path) -> None:
    """Over gRPC: what GetUsage tells, what a refusal's figures and words tell, and what a grant leaves are one number;
    exactly so much is granted.
    """
    async with serving(tmp_path) as server, channels_to(server.address) as (channel,):
        gateway = Gateway(channel)
        await gateway.open_account(7 * PRICE + 3)
        await gateway.settle((await gateway.take("h1")).hold_id, 4)
        for number in range(6):
            granted = await gateway.take(f"h{number + 2}")
        (told,) = [limit.remaining for limit in granted.limits if limit.id == "credits"]
        assert told == (await gateway.credits()).remaining == PRICE - 1
        refused = await gateway.reserve("one too many")
        (limit,) = [limit for limit in refused.limits if limit.id == "credits"]
        assert limit.remaining == told
        assert refused.refusal.message == f"Need {PRICE} credits, you have {told}."
        await gateway.grant("g1", 1)
        await gateway.take("exactly")
        assert (await gateway.credits()).remaining == 0
