"""A store user with no more rights than the documented ones is enough for everything that a server does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.operators_pb2 import AdjustLimitRequest, DeleteTenantRequest, ListAuditRequest
from quota.v1.quota_service_pb2 import HOLD_STATE_RELEASED, HOLD_STATE_SETTLED

from server.bootstrap import SWEEPER
from tests.rpc.healths import health_turns
from tests.store_state import broken_rules, snapshot
from tests.stores import REDIS, VALKEY, RunningStore, running_store
from tests.system.gateway import PRICE, Gateway
from tests.system.servers import channels_to, serving
from tests.waiting import until

RIGHTS: Final = (
    *("~hg:*", "&hg:*", "+@read", "+@write", "+eval", "+evalsha", "+script|load", "+publish", "+subscribe"),
    *("+time", "+ping", "-@dangerous"),
)
GOES_WITHOUT: Final = {b"client|setname", b"info"}
"""What a server asks for and does without: a name for people, and a look at the store's settings."""

SERVING: Final = HealthCheckResponse.SERVING


@pytest.fixture(
    params=[VALKEY, pytest.param(REDIS, marks=pytest.mark.skipif(REDIS is None, reason="no redis-server on the PATH"))],
    ids=["valkey", "redis7"],
)
def store(request: pytest.FixtureRequest) -> Iterator[RunningStore]:
    with running_store("--appendonly", "yes", binary=request.param, tcp=True) as store:
        store.command("ACL", "SETUSER", "gate", "on", ">secret", *RIGHTS)
        yield store


async def test_the_documented_rights_are_enough(tmp_path: Path, store: RunningStore) -> None:
    flags = ("--redis-url", f"redis://gate:secret@127.0.0.1:{store.port}", "--sweep-interval-ms", "500")
    async with serving(tmp_path, *flags) as server, channels_to(server.address) as (channel,):
        gateway = Gateway(channel)
        await gateway.open_account(100)
        await gateway.grant("g-1", 100)
        for name in ("settled", "released"):
            await gateway.take(name)
            await gateway.extend(name)
        assert (await gateway.settle("settled", 3)).state == HOLD_STATE_SETTLED
        assert (await gateway.release("released")).state == HOLD_STATE_RELEASED
        await gateway.take("swept", "brief")
        assert (await gateway.credits()).held == PRICE
        await until(lambda: store.command("ZCARD", "hg:{lab/acme}:due") == 0, what="the sweeper to end the third")
        assert (await gateway.credits()).remaining == 197
        operator = AdminServiceStub(channel)
        adjustment = AdjustLimitRequest(tenant="acme", limit_id="credits", adjustment_id="a", reason="why", add=5)
        assert (await operator.AdjustLimit(adjustment)).after == 202
        gone = await operator.DeleteTenant(DeleteTenantRequest(tenant="acme", reason="why"))
        assert (gone.applied, gone.next_page_token) == (True, "")
        assert store.command("KEYS", "hg:{lab/acme}:*") == []
        assert len((await operator.ListAudit(ListAuditRequest())).entries) == 2
        for name in ("", SWEEPER):
            await health_turns(channel, SERVING, name)
        assert "INFO is forbidden" in server.log()
        assert "secret" not in server.log()
    assert denied(store) <= GOES_WITHOUT
    assert broken_rules(snapshot(store)) == []


def denied(store: RunningStore) -> set[bytes]:
    """The commands and keys that the store's user was refused."""
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in store.command("ACL", "LOG")]
    return {entry[b"object"] for entry in entries}
