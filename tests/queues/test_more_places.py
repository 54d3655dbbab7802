"""A pool gets more places by a new policy while calls wait for it: they run, and nobody has to ask for that."""

import signal
from pathlib import Path
from typing import Final

from quota.v1.decision_pb2 import OUTCOME_GRANTED

from tests.queues.test_waiting_calls import PATIENCE_S, PLACES, POLICY, Caller
from tests.system.servers import channels_to, embedded_store, serving
from tests.waiting import until

WAITING: Final = 5
MORE: Final = 3


async def test_calls_that_wait_get_the_places_of_a_new_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.read_text())
    async with serving(tmp_path, "--policies", str(policy)) as server, channels_to(server.address) as (channel,):
        caller, store = Caller(channel), embedded_store(tmp_path)

        def queue() -> list[bytes]:
            keys = store.command("KEYS", "hg:{lab/acme}:q:*")
            return [member for key in keys for member in store.command("ZRANGE", key, 0, -1)]

        await caller.open_account()
        await caller.fill()
        calls = {f"w-{number}": caller.ask(f"w-{number}", wait=True) for number in range(WAITING)}
        await until(lambda: len(queue()) == WAITING, what="the calls to wait", within_s=PATIENCE_S)
        arrivals = [member.decode() for member in queue()]
        policy.write_text(POLICY.read_text().replace(f"limit: {PLACES}", f"limit: {PLACES + MORE}"))
        server.send(signal.SIGHUP)
        for name in arrivals[:MORE]:
            assert (await calls[name]).decision.outcome == OUTCOME_GRANTED
        assert await caller.figures() == (PLACES + MORE, WAITING - MORE)
        assert not any(calls[name].done() for name in arrivals[MORE:])
