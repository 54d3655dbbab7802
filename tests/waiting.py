"""Waiting for something that is about to be so."""

from collections.abc import Callable
from time import monotonic, sleep

PATIENCE_S = 20.0
_PAUSE_S = 0.02


def until(holds: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Returns once `holds` says so; fails when it does not in time."""
    ends_s = monotonic() + within_s
    while not holds():
        assert monotonic() < ends_s, f"was not so within {within_s} s"
        sleep(_PAUSE_S)
