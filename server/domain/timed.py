"""Holds whose time is paid: it runs from the first Extend, and each Extend charges the part that has passed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from server.domain.errors import HoldStateError
from server.domain.hold import HoldNote, HoldView, State
from server.domain.policy import Policy, Timed
from server.domain.units import rounded_up


class Start(NamedTuple):
    """What the first Extend makes of a hold: its note, and the end that no renewal passes."""

    note: HoldNote
    longest_ends_at_ms: int


def terms_of(policy: Policy, hold: HoldView) -> Timed | None:
    """By what terms a hold's time is paid; None for a hold whose time is not, or whose action is gone."""
    action = policy.actions.get(hold.note.action)
    return action.hold.timed if action is not None and hold.note.timed_ms else None


def start_of(hold: HoldView, connection: str, now_ms: int) -> Start | None:
    """What this Extend starts; None for a hold that has started. Raises where another connection has it."""
    note = hold.note
    if hold.state is not State.ACTIVE:
        return None
    if not note.started_at_ms:
        started = replace(note, started_at_ms=now_ms, connection=connection)
        return Start(started, now_ms + note.timed_ms)
    if connection and connection != note.connection:
        message = f"hold {hold.hold_id!r} is used by another connection; a hold is connected to once"
        raise HoldStateError(message, {"state": hold.state.name})
    return None


def contact(hold: HoldView, timed: Timed, connection: str, now_ms: int) -> tuple[Start | None, Mapping[str, int]]:
    """What an Extend starts, and the total that it reports."""
    start = start_of(hold, connection, now_ms)
    note = hold.note if start is None else start.note
    reports = use_of(hold, timed, now_ms, note.started_at_ms)
    return start, reports if timed.charge in hold.meters else {}


def delivered(hold: HoldView, timed: Timed, now_ms: int) -> Mapping[str, int]:
    """What a final Settle charges that names nothing: the time until now, or, once the hold has ended, what was
    reported until then; nothing where the time costs nothing.
    """
    charged = hold.meters.get(timed.charge)
    if charged is None:
        return {}
    if hold.state is State.ACTIVE:
        return use_of(hold, timed, now_ms, hold.note.started_at_ms)
    return {timed.charge: charged.reported or 0}


def use_of(hold: HoldView, timed: Timed, now_ms: int, started_at_ms: int) -> Mapping[str, int]:
    """What has been used of the hold's time since its start, in whole begun spans, at least one; 0 before any start."""
    if not started_at_ms:
        return {timed.charge: 0}
    passed_ms = min(max(now_ms - started_at_ms, 1), hold.note.timed_ms)
    spans = rounded_up(passed_ms, timed.per_ms)
    all_ms = max(hold.note.timed_ms, spans * timed.per_ms)
    reserved = hold.meters[timed.charge].reserved if timed.charge in hold.meters else 0
    return {timed.charge: rounded_up(reserved * spans * timed.per_ms, all_ms)}
