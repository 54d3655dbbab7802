"""Tells the log what operators did: who, what, about whom, and how it ended."""

from inspect import isasyncgenfunction
from typing import Any, Final

from server.access import entry
from server.logs import log
from server.rpc import admin_service
from server.rpc.counting import status_of
from server.rpc.registrar import Behaviour, Handler

_LOOKS: Final = ("Get", "List", "Watch", "Validate")
"""How methods begin that change nothing. What may change something is told of, whether it did or not."""

_TOLD: Final = (
    *("policy", "tenant", "hold_id", "purchase_id", "refund_id", "grant_id", "through_sequence", "repair"),
    *("limit_id", "reset_id", "adjustment_id", "reason"),
)


class TellOfActs:
    """A layer around each method of AdminService that changes something."""

    def __call__(self, method: str, _handler: Handler, behaviour: Behaviour) -> Behaviour:
        """The method, told of."""
        service, _, name = method.partition("/")
        if service != admin_service.NAME or name.startswith(_LOOKS) or isasyncgenfunction(behaviour):
            return behaviour

        async def told(request: Any, context: Any) -> Any:  # noqa: ANN401  # whatever the method's types are
            status = "OK"
            try:
                return await behaviour(request, context)
            except BaseException as error:
                status = status_of(error, context)
                raise
            finally:
                named = {field: value for field in _TOLD if (value := getattr(request, field, None))}
                log.info("operator.acted", method=name, caller=entry.caller_name(), status=status, **named)

        return told
