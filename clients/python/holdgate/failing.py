"""How middleware tells a hold that the work failed although nothing was raised."""

from collections.abc import Iterator
from contextlib import contextmanager


class WorkFailed(Exception):
    """The answer says that nothing was delivered; the hold is released."""


@contextmanager
def failed() -> Iterator[None]:
    """Keeps WorkFailed from going further than the hold that it is meant for."""
    try:
        yield
    except WorkFailed:
        return
