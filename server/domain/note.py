"""What a tenant's people are told of, taken down once by the step that brought it about."""

from typing import NamedTuple


class Note(NamedTuple):
    """Settled use of a quota reached `percent` of `limit` at `at_ms`, in the cycle that began at `cycle_ms`
    and ends at `ends_ms` (0: not known).

    `cell` is the quota's cell and `scope` the values of its dimensions, in order; `used` is what had been settled then.
    Ids rise within a tenant.
    """

    note_id: str
    at_ms: int
    cell: str
    scope: tuple[str, ...]
    cycle_ms: int
    percent: int
    limit: int
    used: int
    ends_ms: int = 0
