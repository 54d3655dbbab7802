"""A policy that is reloaded with a lower allowance: tenants of which nothing is heard are told of all the same."""

import asyncio
from pathlib import Path
from typing import Final

import pytest
from quota.v1 import admin_service_pb2 as admin

from server.jobs import threshold_walk
from server.jobs.threshold_walk import terms_of
from server.policy.compiler import compile_text
from tests.notices.conftest import POLICY, WITHIN_S, OpenServer, Server, percents, seen
from tests.stores import RunningStore
from tests.waiting import until

LOWER: Final = ("limit: 100,", "limit: 50,")
TENANTS: Final = 30


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold_walk, "INTERVAL_S", 0.05)
    monkeypatch.setattr(threshold_walk, "PAUSE_S", 0.0)


async def reload(server: Server, path: Path, old: str, new: str) -> None:
    path.write_text(POLICY.read_text().replace(old, new))  # noqa: ASYNC240  # a small file
    await server.operator.ReloadPolicy(admin.ReloadPolicyRequest(), timeout=WITHIN_S)


@pytest.mark.parametrize("on", ["memory", "valkey"])
async def test_tenants_that_a_lower_allowance_has_reached_are_told_of_once(
    on: str, open_server: OpenServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: RunningStore | None = request.getfixturevalue(on) if on != "memory" else None
    if store is not None:
        store.command("FLUSHALL")
    path = tmp_path / "notices.yaml"
    path.write_text(POLICY.read_text())
    async with open_server(store, policies=(path,)) as server:
        for number in range(TENANTS):
            await server.use(30 if number % 2 else 10, tenant=f"t{number}")
        await server.use(45, tenant="o1")
        watch = server.watch("o1")

        await reload(server, path, *LOWER)

        assert percents(await seen(watch, 2)) == [50, 80]
        watch.cancel()
        for number in range(TENANTS):
            if number % 2:
                assert [note.used for note in await seen(server.watch(f"t{number}"), 1)] == [30]
        for number in range(0, TENANTS, 2):
            assert await server.listed(f"t{number}") == []
        if store is not None:
            await until(lambda: not store.command("KEYS", "hg:{walks}:by:*"), what="the walk to end")

        await reload(server, path, "limit: 100, overage", "limit: 50,  overage")  # the same terms in another text
        await server.use(1, tenant="o1")
        assert percents(await server.listed("o1")) == [50, 80]


async def test_of_several_servers_one_walks_and_all_know_of_it(
    open_server: OpenServer, valkey: RunningStore, tmp_path: Path
) -> None:
    valkey.command("FLUSHALL")
    path = tmp_path / "notices.yaml"
    path.write_text(POLICY.read_text())
    async with open_server(valkey, policies=(path,)) as one, open_server(valkey, policies=(path,)) as two:
        await one.use(45, tenant="o1")
        await asyncio.gather(reload(one, path, *LOWER), reload(two, path, *LOWER))
        walked = terms_of(compile_text(path.read_text(), "notices.yaml", {}))
        await until(lambda: valkey.command("HGET", "hg:{walks}:walked", "notices") == walked.encode(), what="a walk")
        assert percents(await two.listed("o1")) == [50, 80]


def test_terms_are_those_of_thresholds_alone() -> None:
    text = POLICY.read_text()
    terms = terms_of(compile_text(text, "p.yaml", {}))
    assert terms == terms_of(compile_text(text.replace("Used up.", "Nothing is left."), "p.yaml", {}))
    assert terms != terms_of(compile_text(text.replace(*LOWER), "p.yaml", {}))
    assert terms != terms_of(compile_text(text.replace("[10]", "[20]"), "p.yaml", {}))
    without = text.replace("thresholds: [50, 80, 100], ", "").replace("thresholds: [10], ", "")
    assert not terms_of(compile_text(without, "p.yaml", {}))
