"""What the call under way may do: set where it comes in, asked where a tenant's name becomes a tenant."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from server.access.callers import Caller, Rule
from server.domain.errors import PermissionDeniedError
from server.domain.operation import TenantRef

_caller: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)
_rules: Final[ContextVar[Sequence[Rule]]] = ContextVar("rules", default=())


def enter(caller: Caller, method: str) -> None:
    """The call under way is this caller's, of this method; raises PermissionDeniedError."""
    _caller.set(caller)
    _rules.set(caller.allowed(method))


def enter_operation(method: str) -> None:
    """One of many operations in the call under way is of this method; raises PermissionDeniedError."""
    caller = _caller.get()
    if caller is not None:
        _rules.set(caller.allowed(method))


def permit(ref: TenantRef) -> None:
    """Raises PermissionDeniedError unless the call under way may be about this tenant; a call that never came in
    through `enter` may be about none.
    """
    if any(rule.covers(ref) for rule in _rules.get()):
        return
    caller = _caller.get()
    name = caller.name if caller is not None else ""
    text = f"caller {name!r} may not ask this about tenant {ref.tenant!r} of policy {ref.policy!r}"
    raise PermissionDeniedError(text, {"caller": name})


def permit_all(_ref: TenantRef) -> None:
    """Permits, where callers are not told apart."""


def caller_name() -> str:
    """Who makes the call under way; empty where callers are not told apart."""
    caller = _caller.get()
    return caller.name if caller is not None else ""
