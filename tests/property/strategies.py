"""What Hypothesis draws: policies, requests, reports, account writes, steps of the clock."""

from typing import Final

from hypothesis import strategies as st

from server.domain.account import Override
from server.domain.hold import Delivered, Fraction
from server.domain.limits import Limit
from server.domain.limits.slots import Queue
from server.domain.queue import Ticket
from server.domain.sampling import Page
from tests.policies_for_tests import HOUR_MS, MINUTE_MS, PLANS, TERMS, balance, count, quota, slots, window

MOST_UNITS: Final = 12
NAMES: Final = ("x", "y", "a")
"""Of allocations; one is also the id of a hold."""
HOLD_IDS: Final = ("a", "b", "c", "d", "e")
TENANTS: Final = ("one", "t{wo}/2")
SCOPES: Final = ({"project": "p", "model": "m"}, {"project": "q 1", "model": "m"}, {"project": "p", "model": "n"})
DEBT: Final = 5

units = st.integers(0, MOST_UNITS)
hold_ids = st.sampled_from(HOLD_IDS)
tenant_names = st.sampled_from(TENANTS)
scopes = st.sampled_from(SCOPES)
amounts = st.dictionaries(st.sampled_from(["tokens", "credits", "frames", "requests"]), units, max_size=3)
reports = st.dictionaries(st.sampled_from(["tokens", "credits", "frames"]), st.integers(0, 2 * MOST_UNITS), max_size=2)
caps = st.one_of(
    st.integers(0, 2 * MOST_UNITS),
    st.fixed_dictionaries({plan: st.one_of(st.none(), st.integers(0, 2 * MOST_UNITS)) for plan in PLANS}),
)
fractions = st.integers(1, 9).flatmap(lambda parts: st.builds(Fraction, st.integers(0, parts), st.just(parts)))
delivered: st.SearchStrategy[Delivered] = st.one_of(st.none(), reports, fractions)

steps_ms = st.sampled_from(
    [1, 30, 61, 1000, 30_000, MINUTE_MS - 1, MINUTE_MS, TERMS.lease_ms - 1, TERMS.lease_ms, HOUR_MS, 21 * 24 * HOUR_MS]
)
steps_back_ms = st.sampled_from([1, 40, 5000, 10 * MINUTE_MS, 21 * 24 * HOUR_MS])

# A limit's id says all that its cell depends on, so that one policy may take the place of another.
windows: st.SearchStrategy[Limit] = st.builds(
    lambda meter, length, scope, cap, flags: window(
        f"w-{meter}-{length}-{'-'.join(scope)}",
        cap,
        meter,
        window_ms=length,
        scope=scope,
        returns=flags[0],
        shadow=flags[1],
        room=3 if flags[2] else None,
    ),
    st.sampled_from(["requests", "tokens"]),
    st.sampled_from([MINUTE_MS, 90_000]),
    st.sampled_from([(), ("project",), ("project", "model")]),
    caps,
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([False, False, False, True])),
)
pools: st.SearchStrategy[Limit] = st.builds(
    lambda meter, scope, cap, shadow, jobs: slots(
        f"s-{meter}-{'-'.join(scope)}-{jobs[0]}-{jobs[1]:d}",
        cap,
        meter,
        scope=scope,
        shadow=shadow,
        typical_ms=jobs[0],
        measured=jobs[1],
    ),
    st.sampled_from(["", "frames"]),
    st.sampled_from([(), ("model",)]),
    caps,
    st.booleans(),
    st.sampled_from([(0, False), (0, False), (9000, False), (MINUTE_MS, True)]),
)
lines: st.SearchStrategy[list[Limit]] = st.one_of(
    st.just([]),
    st.builds(
        lambda places, times, measured: [
            slots("line", places, typical_ms=9000, measured=measured, queue=Queue(times=times, ticket_ms=30_000))
        ],
        st.one_of(st.integers(0, 3), st.fixed_dictionaries({plan: st.integers(0, 3) for plan in PLANS})),
        st.integers(1, 2),
        st.booleans(),
    ),
)
"""No pool with a queue, or one."""
tickets = st.sampled_from([Ticket(30_000), Ticket(30_000), Ticket(5000, "ab.1"), Ticket(5000, "cd.2")])
balances: st.SearchStrategy[Limit] = st.builds(
    lambda meter, shadow, debt: balance(f"b-{meter}", meter, shadow=shadow, debt=debt),
    st.sampled_from(["credits", "tokens"]),
    st.booleans(),
    st.sampled_from([0, DEBT]),
)
quotas: st.SearchStrategy[Limit] = st.builds(
    lambda meter, scope, cap, overage, grace_ms, shadow: quota(
        f"q-{meter}-{'-'.join(scope)}", cap, meter, scope=scope, overage=overage, grace_ms=grace_ms, shadow=shadow
    ),
    st.sampled_from(["frames", "tokens"]),
    st.sampled_from([(), ("project",)]),
    caps,
    st.sampled_from([0, 0, 4, None]),
    st.sampled_from([0, 0, 1000, HOUR_MS]),
    st.booleans(),
)
counts: st.SearchStrategy[Limit] = st.builds(
    lambda meter, scope, cap, shadow: count(f"n-{meter}-{'-'.join(scope)}", cap, meter, scope=scope, shadow=shadow),
    st.sampled_from(["", "frames"]),
    st.sampled_from([(), ("project",)]),
    caps,
    st.booleans(),
)
pages = st.sampled_from(
    [
        Page("d1", "a", bound=20),
        Page("d1", "b"),
        Page("d2", "a"),
        Page("i9", "x", fixed=True, before="i8"),
        Page("i8", "x"),
    ]
)
BALANCES: Final = tuple(balance(f"b-{meter}", meter) for meter in ("credits", "tokens"))
limits = st.lists(
    st.one_of(windows, windows, pools, balances, quotas, quotas, counts),
    min_size=1,
    max_size=5,
    unique_by=lambda limit: limit.id,
)

grants = st.dictionaries(st.sampled_from([limit.cell for limit in BALANCES]), st.integers(0, 40), max_size=2)


@st.composite
def overrides(draw: st.DrawFn, limit_ids: tuple[str, ...], now_ms: int) -> tuple[Override, ...]:
    """Values for some limits of a policy, most of them for a while."""
    if not limit_ids:
        return ()
    chosen = draw(st.lists(st.sampled_from(limit_ids), max_size=2, unique=True))
    return tuple(
        Override(limit_id, draw(units), now_ms + draw(st.sampled_from([1, 1000, MINUTE_MS, 10**10])))
        for limit_id in chosen
    )
