"""Hooks for an LLM gateway that calls its plug-ins before and after each request, as LiteLLM's proxy does.

`limits = QuotaHooks(AsyncQuota("127.0.0.1:50051", policy="llm"))` is what to name as its callback.
"""

from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from holdgate import Ask, AsyncQuota, QuotaAway, Refused

_HOLD = "holdgate"
_FOR_A_START = 500  # tokens held where the request sets no bound of its own


class NotNow(Exception):
    """What the gateway is to answer in place of the model; gateways read the status from `status_code`."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


class QuotaHooks:
    """Reserves before the model is called, and settles the tokens that it says were used."""

    def __init__(self, quota: AsyncQuota) -> None:
        self._quota = quota

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, _cache: object, data: MutableMapping[str, Any], _call_type: str
    ) -> MutableMapping[str, Any]:
        """Takes a request, a place, and the tokens that it may need at most."""
        tokens = int(data.get("max_tokens") or _FOR_A_START)
        scope = {"model": str(data["model"])}
        ask = Ask(tenant=user_api_key_dict.team_id, action="chat", scope=scope, amounts={"tokens": tokens})
        stack = AsyncExitStack()
        try:
            hold = await stack.enter_async_context(self._quota.hold(ask))
        except Refused as refused:
            refusal = refused.decision.refusal
            raise NotNow(refusal.http_status, refusal.message) from refused
        except QuotaAway as away:
            raise NotNow(503, "Limits cannot be checked at the moment.") from away
        data.setdefault("metadata", {})[_HOLD] = stack, hold
        return data

    async def async_post_call_success_hook(self, data: MutableMapping[str, Any], _key: object, response: Any) -> Any:
        """Charges what was used."""
        stack, hold = data["metadata"].pop(_HOLD)
        hold.report(tokens=response.usage.total_tokens)
        await stack.aclose()
        return response

    async def async_post_call_failure_hook(
        self, request_data: MutableMapping[str, Any], original_exception: Exception, *_more: object
    ) -> None:
        """Gives everything back."""
        stack, _hold = request_data["metadata"].pop(_HOLD)
        await stack.__aexit__(type(original_exception), original_exception, None)
