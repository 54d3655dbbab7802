"""A run without processes: the same load, resolving and audit, in the test's own event loop."""

from dataclasses import dataclass
from time import monotonic

from loadtest import accounts
from loadtest.audit import Audit
from loadtest.auditor import Auditor
from loadtest.callers import CALLERS
from loadtest.loops import Load
from loadtest.player import Player
from loadtest.recorder import Interval, Recorder
from loadtest.requests import Draw
from loadtest.resolve import resolve
from loadtest.target import reach
from tests.loadtest.fake_server import FakeServer, serving
from tests.loadtest.plans import plan


@dataclass
class Ran:
    """What came of a run."""

    audit: Audit
    measured: Interval


async def run(fake: FakeServer, *words: str) -> Ran:
    """Runs the plan that the words make against the fake."""
    async with serving(fake) as target:
        made = plan(*words, target=target)
        channel = await reach(made.target)
        if made.set_up and made.mix.accounts:
            await accounts.create(made, made.mix.accounts, channel, lambda _: None)
        caller = CALLERS[made.via]([channel], made.batch)
        recorder = Recorder(monotonic())
        player = Player(made, Draw(made, 0), caller, recorder)
        await Load(made, 0, player, start_s=recorder.measure_from_s).run(player.stop)
        unknown = await resolve(made, caller, player)
        numbers = [question.drawn.key[0] for question in unknown]
        audit = await Auditor(made, channel, player.ledger.tallies(), numbers).run(lambda _: None)
        await channel.close()
        return Ran(audit, recorder.cut(recorder.last_s))
