"""What a run says while it runs: one live line on a terminal, a line every few seconds elsewhere."""

from time import monotonic
from typing import Final, Protocol

from rich.console import Console
from rich.status import Status

from loadtest.totals import Moment, Totals

_EVERY_S: Final = 5.0


class Progress(Protocol):
    """Is told how far a run has come."""

    def stage(self, text: str) -> None:
        """A new phase begins."""

    def counted(self, done: int) -> None:
        """So many parts of the phase are done."""

    def loaded(self, totals: Totals) -> None:
        """The load has come this far."""

    def close(self) -> None:
        """Nothing more will be said."""


class LiveProgress:
    """One line that is written over."""

    def __init__(self, console: Console) -> None:
        self._status = Status("", console=console)
        self._stage = ""
        self._status.start()

    def stage(self, text: str) -> None:
        """A new phase begins."""
        self._stage = text
        self._status.update(text)

    def counted(self, done: int) -> None:
        """So many parts of the phase are done."""
        self._status.update(f"{self._stage}: {done:,}")

    def loaded(self, totals: Totals) -> None:
        """The load has come this far."""
        moment = totals.latest()
        if moment is not None:
            self._status.update(line(moment, totals))

    def close(self) -> None:
        """Nothing more will be said."""
        self._status.stop()


class PlainProgress:
    """A line for each phase, and one every five seconds within it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._said_s = 0.0

    def stage(self, text: str) -> None:
        """A new phase begins."""
        self._stage = text
        self._say(text)

    def counted(self, done: int) -> None:
        """So many parts of the phase are done."""
        if self._is_time():
            self._say(f"{self._stage}: {done:,}")

    def loaded(self, totals: Totals) -> None:
        """The load has come this far."""
        moment = totals.latest()
        if moment is not None and self._is_time():
            self._say(line(moment, totals))

    def close(self) -> None:
        """Nothing more will be said."""

    def _is_time(self) -> bool:
        return monotonic() - self._said_s >= _EVERY_S

    def _say(self, text: str) -> None:
        self._said_s = monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def progress_for(console: Console) -> Progress:
    """The one that suits the console."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def line(moment: Moment, totals: Totals) -> str:
    """One second of the load in words."""
    parts = [f"{moment.at_s + 1:.0f} s", f"{moment.granted + moment.refused:,.0f} decisions/s"]
    if moment.p50_ms is not None and moment.p99_ms is not None:
        parts.append(f"p50 {moment.p50_ms:.1f} ms, p99 {moment.p99_ms:.1f} ms")
    parts.append(f"{totals.counts.granted:,} granted, {totals.counts.refused.total():,} refused")
    if failed := totals.counts.errors.total():
        parts.append(f"{failed:,} errors")
    return " · ".join(parts)
