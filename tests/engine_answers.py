"""What an engine answers, errors included, as something that can be compared."""

from collections.abc import Awaitable
from typing import Any

from server.domain.errors import HoldgateError, InvalidRequestError


class Fault(tuple[Any, ...]):
    """An error as an answer: its class and all that a caller can branch on."""

    __slots__ = ()


async def answer_of(operation: Awaitable[Any]) -> Any:  # noqa: ANN401  # whatever the engine answers
    """The answer, or the fault in its place."""
    try:
        return await operation
    except InvalidRequestError as error:
        return Fault((type(error), error.violations))
    except HoldgateError as error:
        return Fault((type(error), dict(error.metadata)))
