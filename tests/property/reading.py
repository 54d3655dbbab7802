"""What a snapshot of a store tells of tenants that Hypothesis has drawn."""

from collections.abc import Iterator

from tests.property import strategies as draw_
from tests.store_state import Snapshot, balance_of


def any_overdue(state: Snapshot, now_ms: int) -> bool:
    """Whether the next operation has leases to end first."""
    return any(
        int(score) <= now_ms
        for key, (_, content, _) in state.items()
        if key.endswith(b":due")
        for score in content.values()  # type: ignore[attr-defined]  # a sorted set is a dict
    )


def balances_in(state: Snapshot) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Each balance with its tenant's name and its cell."""
    names = {replace_quotes(name): name for name in draw_.TENANTS}
    for key, (_, content, _) in state.items():
        if key.endswith(b":cells"):
            tenant = names[key.removeprefix(b"hg:{lab/").removesuffix(b"}:cells").decode()]
            for field, raw in content.items():  # type: ignore[attr-defined]  # a hash is a dict
                if field.startswith(b"b-"):
                    yield tenant, field.decode(), balance_of(raw)


def replace_quotes(name: str) -> str:
    return name.replace("{", "%7B").replace("}", "%7D").replace("/", "%2F")
