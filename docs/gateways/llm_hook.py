"""Hooks for an LLM gateway that calls its plug-ins before and after each request: LiteLLM's proxy, or one like it.

`limits`, at the end, is what to name as its callback.
"""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

from holdgate import Ask, AsyncQuota, Hold, QuotaAway, Refused

try:
    from litellm.integrations.custom_logger import CustomLogger
except ImportError:  # a gateway that asks for no base class
    CustomLogger = object

_ID = "litellm_call_id"
_FOR_A_START = 500  # tokens held where the request sets no bound of its own


class NotNow(Exception):
    """What the gateway is to answer in place of the model; gateways read the status from `status_code`."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


class QuotaHooks(CustomLogger):  # type: ignore[misc]  # LiteLLM's types are there only where it is installed
    """Reserves before the model is called, and settles the tokens that it says were used.

    The names of methods and of their arguments are LiteLLM's, which passes them by name.
    """

    def __init__(self, quota: AsyncQuota) -> None:
        super().__init__()
        self._quota = quota
        self._open: dict[str, tuple[AsyncExitStack, Hold]] = {}

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: object,  # noqa: ARG002  # the hook's signature
        data: MutableMapping[str, Any],
        call_type: str,  # noqa: ARG002  # as above
    ) -> MutableMapping[str, Any]:
        """Takes a request, a place, and the tokens that it may need at most."""
        tokens = int(data.get("max_tokens") or _FOR_A_START)
        tenant = user_api_key_dict.team_id or user_api_key_dict.user_id
        ask = Ask(tenant=tenant, action="chat", scope={"model": str(data["model"])}, amounts={"tokens": tokens})
        stack = AsyncExitStack()
        try:
            hold = await stack.enter_async_context(self._quota.hold(ask))
        except Refused as refused:
            refusal = refused.decision.refusal
            raise NotNow(refusal.http_status, refusal.message) from refused
        except QuotaAway as away:
            raise NotNow(503, "Limits cannot be checked at the moment.") from away
        self._open[data.setdefault(_ID, uuid4().hex)] = stack, hold
        return data

    async def async_post_call_success_hook(
        self,
        data: MutableMapping[str, Any],
        user_api_key_dict: Any,  # noqa: ARG002  # the hook's signature
        response: Any,
    ) -> Any:
        """Charges what was used; what was reserved, where the model does not say."""
        stack, hold = self._open.pop(data[_ID])
        _report(hold, response)
        await stack.aclose()
        return response

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,  # noqa: ARG002  # the hook's signature
        response: AsyncIterator[Any],
        request_data: MutableMapping[str, Any],
    ) -> AsyncIterator[Any]:
        """The same for a stream, whose last chunk says what was used; all goes back when it breaks off before."""
        stack, hold = self._open.pop(request_data[_ID])
        async with stack:
            async for chunk in response:
                _report(hold, chunk)
                yield chunk

    async def async_post_call_failure_hook(
        self,
        request_data: MutableMapping[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,  # noqa: ARG002  # the hook's signature
        traceback_str: str | None = None,  # noqa: ARG002  # as above
    ) -> None:
        """Gives everything back, where anything was taken."""
        if taken := self._open.pop(request_data.get(_ID, ""), None):
            await taken[0].__aexit__(type(original_exception), original_exception, None)


def _report(hold: Hold, answer: Any) -> None:
    if usage := getattr(answer, "usage", None):
        hold.report(tokens=usage.total_tokens)


limits = QuotaHooks(AsyncQuota("127.0.0.1:50051", policy="llm"))
