"""What a tenant's people are told of, taken down once by the step that brought it about."""

from typing import NamedTuple


class Note(NamedTuple):
    """Settled use of a quota reached `percent` of `limit` at `at_ms`, in the cycle that began at `cycle_ms`
    and ends at `ends_ms` (0: not known). Or a balance fell to `mark`, and `left` units were left.

    `cell` is the limit's cell and `scope` the values of its dimensions, in order; `used` is what had been settled then.
    Ids rise within a tenant. `mark` is None for a quota; for a balance the quota's figures are 0.
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
    mark: int | None = None
    left: int = 0
