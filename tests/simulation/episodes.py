"""What a seed stands for: the rules of an episode, and every step of it, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from random import Random
from typing import Final, NamedTuple, TypeAlias

from server.domain.limits import Limit
from server.domain.limits.slots import Queue
from server.domain.policy import Policy
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, PLANS, balance, count, only_for, policy, quota, slots, window
from tests.policies_for_tests import TERMS as LONG_KEPT
from tests.simulation.asked import MOST_UNITS, Asked, Drawn
from tests.simulation.operations import OPERATIONS

DAY_MS: Final = 24 * HOUR_MS
SERVERS: Final = 2
DEBT: Final = 5
JUDGED_STEPS: Final = 240
FREE_STEPS: Final = 2000
JUDGED_PART: Final = 0.7
MOST_INSTANTS: Final = 60
"""In a judged episode: beyond it a window may merge entries, and the plain model does not."""

FOREVER: Final = replace(LONG_KEPT, tombstone_ms=7000 * DAY_MS, replay_ms=7000 * DAY_MS)
BRIEF: Final = replace(LONG_KEPT, tombstone_ms=HOUR_MS, replay_ms=MINUTE_MS)

STEPS_MS: Final = (1, 1, 1, 30, 61, 1000, 1000, 30_000, MINUTE_MS - 1, MINUTE_MS, LONG_KEPT.lease_ms - 1)
RARE_STEPS_MS: Final = (LONG_KEPT.lease_ms, HOUR_MS, 21 * DAY_MS)
STEPS_BACK_MS: Final = (1, 40, 5000, 10 * MINUTE_MS, 21 * DAY_MS)


class Fate(Enum):
    """What becomes of a call to the store."""

    ANSWERED = auto()
    REPLY_LOST = auto()
    """Made, and the answer never comes."""
    LOST = auto()
    """Sent, never made, and the caller cannot know."""
    REFUSED = auto()
    """Not made, and the caller knows."""
    GIVEN_UP = auto()
    """The caller cancels before it is made: it is never made."""
    GIVEN_UP_LATE = auto()
    """The caller cancels; it is made all the same."""


FATES: Final = (
    *[Fate.ANSWERED] * 10,
    *(Fate.REPLY_LOST, Fate.REPLY_LOST, Fate.LOST, Fate.REFUSED, Fate.GIVEN_UP, Fate.GIVEN_UP_LATE),
)


class Begin(NamedTuple):
    """A caller asks a server, which makes at most so many calls to the store before anything else happens."""

    asked: Asked
    server: int
    calls: int


class GoOn(NamedTuple):
    """One of those that wait for the store goes on by a call. `which` counts them through."""

    which: int
    fate: Fate


class Again(NamedTuple):
    """An earlier message arrives once more: the last, or one before it."""

    back: int
    server: int


class Crash(NamedTuple):
    """A server dies; `made`: the calls that it had sent are made all the same."""

    server: int
    made: bool


class Clock(NamedTuple):
    """Time passes, or the clock steps back."""

    by_ms: int


class Reload(NamedTuple):
    """Another policy is put in force."""

    which: int


Step: TypeAlias = Begin | GoOn | Again | Crash | Clock | Reload


@dataclass(frozen=True)
class Episode:
    """One run from an empty store. A judged one is held against the plain model."""

    name: str
    policies: Sequence[Policy]
    judged: bool
    steps: Sequence[Step]


def draw_episode(seed: int, number: int) -> Episode:
    """The n-th episode of a seed."""
    name = f"{seed}:{number}"
    random = Random(name)  # noqa: S311  # the same for ever
    judged = random.random() < JUDGED_PART
    terms = FOREVER if judged else BRIEF
    lines = _lines(random)
    drawn = [policy(*_limits(random), *lines, terms=terms) for _ in range(random.randint(1, 3))]
    policies = [replace(one, version=f"v{place}") for place, one in enumerate(drawn)]
    return Episode(name, policies, judged, _steps(random, JUDGED_STEPS if judged else FREE_STEPS, judged=judged))


def _steps(random: Random, count: int, *, judged: bool) -> list[Step]:
    drawn, steps, instants = Drawn(random), list[Step](), 0
    kinds, weights = list(OPERATIONS), list(OPERATIONS.values())
    # Some episodes are calm, so that long histories come about; in others everything fails all the time.
    trouble = random.choice((0.0, 0.1, 0.3))
    while len(steps) < count:
        chance = random.random()
        if chance < 0.2 and (not judged or instants < MOST_INSTANTS):
            instants += 1
            steps.append(Clock(_step_ms(random)))
        elif chance < 0.21:
            steps.append(Reload(random.randrange(6)))
        elif chance < 0.27:
            steps.append(Again(int(random.expovariate(0.3)), random.randrange(SERVERS)))
        elif chance < 0.27 + trouble / 20:
            steps.append(Crash(random.randrange(SERVERS), made=random.random() < 0.5))
        elif chance < 0.28 + trouble:
            steps.append(GoOn(random.randrange(8), random.choice(FATES)))
        else:
            (kind,) = random.choices(kinds, weights)
            calls = random.randint(0, 3) if random.random() < trouble else 1000
            steps.append(Begin(kind.draw(drawn), random.randrange(SERVERS), calls))
    return steps


def _step_ms(random: Random) -> int:
    chance = random.random()
    if chance < 0.06:
        return -random.choice(STEPS_BACK_MS)
    return random.choice(RARE_STEPS_MS if chance < 0.2 else STEPS_MS)


# A limit's id says all that its cell depends on, so that one policy may take the place of another.


def _limits(random: Random) -> list[Limit]:
    drawn = [
        random.choice((_window, _window, _pool, _balance, _quota, _count))(random) for _ in range(random.randint(1, 5))
    ]
    if random.random() < 0.4:
        drawn.append(_purse(random))
    return list({limit.id: limit for limit in drawn}.values())


def _cap(random: Random) -> int | dict[str, int | None]:
    if random.random() < 0.6:
        return random.randint(0, 2 * MOST_UNITS)
    return {plan: random.choice((None, random.randint(0, 2 * MOST_UNITS))) for plan in PLANS}


def _is_shadow(random: Random) -> bool:
    return random.random() < 0.2


def _window(random: Random) -> Limit:
    meter, length = random.choice(("requests", "tokens")), random.choice((MINUTE_MS, 90_000))
    scope: tuple[str, ...] = random.choice(((), ("project",), ("project", "model")))
    return window(
        f"w-{meter}-{length}-{'-'.join(scope)}",
        _cap(random),
        meter,
        window_ms=length,
        scope=scope,
        returns=random.random() < 0.5,
        shadow=_is_shadow(random),
        room=3 if random.random() < 0.2 else None,
    )


def _pool(random: Random) -> Limit:
    meter = random.choice(("", "frames"))
    scope: tuple[str, ...] = random.choice(((), ("model",)))
    typical_ms, measured = random.choice(((0, False), (0, False), (9000, False), (MINUTE_MS, True)))
    return slots(
        f"s-{meter}-{'-'.join(scope)}-{typical_ms}-{measured:d}",
        _cap(random),
        meter,
        scope=scope,
        typical_ms=typical_ms,
        measured=measured,
        shadow=_is_shadow(random),
    )


def _lines(random: Random) -> list[Limit]:
    """Pools with queues, the same in all policies of an episode; two of them may share their places on a plan."""
    if random.random() < 0.6:
        return []
    names = ("work", "rest") if random.random() < 0.6 else ("work",)
    joined = {"pro": tuple(f"line-{name}~s" for name in names)} if random.random() < 0.6 else {}
    pools: list[Limit] = []
    for name in names:
        waits = Queue(times=random.randint(1, 3), ticket_ms=30_000, joined=joined)
        places: int | dict[str, int | None] = random.randint(0, 4)
        if random.random() < 0.6:
            places = {"free": random.randint(0, 3), "pro": random.randint(1, 6)}
        pool = slots(f"line-{name}", places, typical_ms=9000, measured=random.random() < 0.5, queue=waits)
        pools.append(only_for(pool, name))
    return pools


def _balance(random: Random) -> Limit:
    meter = random.choice(("credits", "tokens"))
    return balance(f"b-{meter}", meter, debt=random.choice((0, DEBT)), shadow=_is_shadow(random))


def _quota(random: Random) -> Limit:
    meter = random.choice(("frames", "tokens"))
    scope: tuple[str, ...] = random.choice(((), ("project",)))
    return quota(
        f"q-{meter}-{'-'.join(scope)}",
        _cap(random),
        meter,
        scope=scope,
        overage=random.choice((0, 0, 4, None)),
        grace_ms=random.choice((0, 0, 1000, HOUR_MS)),
        shadow=_is_shadow(random),
    )


def _count(random: Random) -> Limit:
    meter = random.choice(("", "frames"))
    scope: tuple[str, ...] = random.choice(((), ("model",)))
    return count(f"n-{meter}-{'-'.join(scope)}", _cap(random), meter, scope=scope, shadow=_is_shadow(random))


def _purse(random: Random) -> Limit:
    """A balance with all that one may have."""
    return balance(
        "purse",
        debt=random.choice((0, DEBT)),
        burn=random.choice(("312", "123", "231", "")),
        refill={"free": random.randint(0, 40), "pro": 60} if random.random() < 0.7 else None,
        calendar=random.random() < 0.5,
        ledger=True,
        thresholds=random.choice(((), (30, 10, 0))),
    )
