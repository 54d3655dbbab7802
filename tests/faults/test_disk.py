"""A file that ends in the middle, as after a power cut: the store starts, and what it has still adds up."""

import shutil
from pathlib import Path
from typing import Final

from server.engine.redis_engine import RedisEngine
from tests.conftest import Connect, Figure
from tests.faults.sizes import size
from tests.policies_for_tests import HOUR_MS, balance, policy, quota, slots, window
from tests.store_state import broken_rules, snapshot
from tests.stores import RunningStore, running_store
from tests.tenants import Clock, Tenant

LAB: Final = policy(
    window("rpm", 10**6),
    slots("jobs", 10**6),
    quota("allowance", 10**6),
    balance("credits", burn="312", refill=10**6, ledger=True),
)
MOST_BYTES: Final = 200


async def test_a_truncated_file_loads_and_adds_up(connect: Connect, figure: Figure, tmp_path: Path) -> None:
    """Whatever a script writes stands in the file as one transaction: it is there as a whole or not at all."""
    with running_store("--appendonly", "yes", "--appendfsync", "always") as store:
        clock = Clock()
        tenant = Tenant(RedisEngine(await connect(store), clock=clock), clock, LAB)
        await tenant.open(credits=10**6)
        for number in range(40):
            await tenant.grant(f"h{number}", credits=10, frames=3)
            clock.advance(HOUR_MS if number % 10 == 9 else 1000)
            if number % 3:
                await tenant.settle(f"h{number}", {"credits": number, "frames": 1})
        store.kill()
        shutil.copytree(store.folder, tmp_path / "whole", ignore=shutil.ignore_patterns("*.sock"))
    step = MOST_BYTES // size(8, 20, MOST_BYTES)
    cuts = range(1, MOST_BYTES + 1, step)
    found = set()
    for cut in (0, *cuts):
        folder = tmp_path / str(cut)
        shutil.copytree(tmp_path / "whole", folder)
        (written,) = folder.glob("appendonlydir/*.incr.aof")
        with written.open("rb+") as file:
            file.truncate(written.stat().st_size - cut)
        loaded = RunningStore(store.binary, folder, store.options)
        try:
            loaded.start()
            state = snapshot(loaded)
        finally:
            loaded.kill()
        assert broken_rules(state) == [], f"{cut} bytes cut off"
        found.add(repr(state))
        shutil.rmtree(folder)
    assert len(found) > 1, "what was cut off was nothing"
    figure(f"{len(cuts)} of {len(cuts)} files, cut by 1 to {MOST_BYTES} bytes")
