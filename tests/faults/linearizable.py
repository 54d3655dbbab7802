"""Whether a history of concurrent calls could have been made one after the other: the search of Wing and Gong.

A call takes effect at one instant between its sending and its answer. A history is linearizable when there is an order
of such instants in which each answer is what the plain model answers. States that were met before with the same calls
done are not looked at again.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

UNKNOWN: Final = object()
"""The answer of a call that was given up: it took effect at some time after it was sent, or never."""


class Made(NamedTuple):
    """One call of a history, with when it was sent and when it was answered, on one clock."""

    what: tuple[Any, ...]
    answer: Any
    sent: int
    answered: int


Apply = Callable[[Any, tuple[Any, ...]], tuple[Hashable, Any]]
"""The plain model: the next state and the answer of a call in a state."""


def is_linearizable(history: Sequence[Made], start: Hashable, apply: Apply) -> bool:
    """Whether some order explains every answer."""
    calls = sorted(history, key=lambda call: call.sent)
    needed = sum(1 << place for place, call in enumerate(calls) if call.answer is not UNKNOWN)
    seen: set[tuple[int, Hashable]] = set()
    open_ends: list[tuple[int, Hashable]] = [(0, start)]
    while open_ends:
        done, state = open_ends.pop()
        if done & needed == needed:
            return True
        left = [place for place in range(len(calls)) if not done >> place & 1]
        first_answer = min(calls[place].answered for place in left)
        for place in left:
            call = calls[place]
            if call.sent > first_answer:
                break
            following, answer = apply(state, call.what)
            if call.answer is UNKNOWN or answer == call.answer:
                end = (done | 1 << place, following)
                if end not in seen:
                    seen.add(end)
                    open_ends.append(end)
    return False
