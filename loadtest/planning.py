"""The plan that arguments make, each checked against what a run can do."""

import argparse
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from loadtest.mix import Accounts, Mix
from loadtest.mix_text import MixError, mix_of_words, read_mix
from loadtest.options import DEFAULT_CALLERS, ENDINGS
from loadtest.plan import Closed, LoadPlan, Open
from loadtest.spreads import seconds
from loadtest.target import is_loopback
from loadtest.tenants import picker
from server.reaching import Target, TargetError, target_of

MAX_CALLERS: Final = 100_000
MAX_PROCESSES: Final = 64
MAX_CONNECTIONS: Final = 256
MAX_RATE: Final = 1_000_000
MAX_BATCH: Final = 256
MAX_COUNT: Final = 10**9
LONGEST_S: Final = 24 * 3600
SHORTEST_S: Final = 0.1

_DURATION_S: Final = 10.0
_DURATION_WITH_COUNT_S: Final = 600.0
"""A run that is bounded by a count ends after this time at the latest."""


class Misused(Exception):
    """The arguments make no plan; the message says which and why."""


def plan_of(chosen: argparse.Namespace) -> LoadPlan:
    """The plan that the arguments make; raises Misused."""
    try:
        return _plan(chosen)
    except (ValueError, MixError) as error:
        raise Misused(str(error)) from error


def _plan(chosen: argparse.Namespace) -> LoadPlan:
    if not is_loopback(chosen.target) and not chosen.i_own_this_target:
        text = f"{chosen.target} is not this machine's own; add --i-own-this-target if loading it is yours to decide"
        raise Misused(text)
    picker(chosen.spread, chosen.tenants)
    pace = _pace(chosen)
    at_most = pace.callers if isinstance(pace, Closed) else MAX_PROCESSES
    mix = _mix(chosen)
    for name in filter(None, (chosen.json, chosen.html)):
        if not Path(name).resolve().parent.is_dir():
            raise Misused(f"{name}: there is no such folder to write to")
        if Path(name).is_dir():
            raise Misused(f"{name}: is a folder; name a file to write")
    if chosen.setup and mix.accounts is None:
        raise Misused("--setup needs to know the accounts' --plan, since the mix does not say")
    return LoadPlan(
        target=_target(chosen),
        via=chosen.via,
        batch=_whole("--batch", chosen.batch, MAX_BATCH),
        connections=_whole("--connections", chosen.connections, MAX_CONNECTIONS),
        processes=min(_whole("--processes", chosen.processes, MAX_PROCESSES), at_most),
        pace=pace,
        warm_up_s=_number("--warm-up", seconds(chosen.warm_up), 0, LONGEST_S),
        duration_s=_duration_s(chosen),
        count=None if chosen.count is None else _whole("--count", chosen.count, MAX_COUNT),
        timeout_s=_number("--timeout", seconds(chosen.timeout), 0.001, LONGEST_S),
        mix=mix,
        tenants=chosen.tenants,
        spread=chosen.spread,
        repeats=_number("--repeats", chosen.repeats, 0, 1),
        set_up=chosen.setup,
        audit=not chosen.no_audit,
        unaudited=frozenset(chosen.unaudited),
        seed=secrets.randbits(32) if chosen.seed is None else chosen.seed,
        run=f"load-{secrets.token_hex(4)}",
    )


def _target(chosen: argparse.Namespace) -> Target:
    target = target_of(chosen.target, chosen)
    try:
        target.check()
    except TargetError as error:
        raise Misused(str(error)) from error
    return target


def _pace(chosen: argparse.Namespace) -> Closed | Open:
    if chosen.rate is None:
        callers = DEFAULT_CALLERS if chosen.callers is None else chosen.callers
        return Closed(_whole("--callers", callers, MAX_CALLERS))
    rate = _number("--rate", chosen.rate, 0.001, MAX_RATE)
    return Open(rate, _whole("--in-flight", chosen.in_flight, MAX_CALLERS))


def _duration_s(chosen: argparse.Namespace) -> float:
    if chosen.duration is not None:
        return _number("--duration", seconds(chosen.duration), SHORTEST_S, LONGEST_S)
    return _DURATION_S if chosen.count is None else _DURATION_WITH_COUNT_S


def _mix(chosen: argparse.Namespace) -> Mix:
    defaults: dict[str, object] = {}
    if ends := {name: weight for name in ENDINGS if (weight := getattr(chosen, name)) is not None}:
        defaults["ends"] = {"settle": 0.0, **ends}
    for name in ("hold", "delivered"):
        if (value := getattr(chosen, name)) is not None:
            defaults[name] = value
    mix = mix_of_words(chosen.request, defaults) if chosen.request else read_mix(chosen.mix or "quickstart", defaults)
    if chosen.policy is not None:
        mix = mix.model_copy(update={"policy": chosen.policy})
    return mix.model_copy(update={"accounts": _accounts(chosen, mix.accounts)})


def _accounts(chosen: argparse.Namespace, given: Accounts | None) -> Accounts | None:
    opening = {**(given.opening if given else {}), **dict(_pairs(chosen.opening))}
    plan = chosen.plan or (given.plan if given else None)
    if plan is None:
        return None
    flags = {**(given.flags if given else {}), **dict.fromkeys(chosen.flag, True)}
    return Accounts(plan=plan, opening=opening, flags=flags, overrides=given.overrides if given else {})


def _pairs(texts: Iterable[str]) -> Iterable[tuple[str, int]]:
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value.isascii() and value.isdecimal()):
            raise ValueError(f"--opening {text!r}: expected METER=N with a whole number of base units")
        yield name, int(value)


def _number(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g}: from {low:g} to {high:,g} is possible")
    return value


def _whole(name: str, value: int, high: int) -> int:
    if not 1 <= value <= high:
        raise ValueError(f"{name} {value}: from 1 to {high:,} is possible")
    return value
