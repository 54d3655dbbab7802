"""The YAML form of `window`."""

from typing import Literal

from server.domain.limits.base import Kind
from server.domain.limits.window import Window
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path
from server.policy.kinds.base import ScopedModel, cell_name
from server.policy.model import Amount, Name, PlanAmount


class WindowModel(ScopedModel):
    """A rate: at most `limit` units of `meter` in any `window`.

    `on_release: return` gives back even what was counted for the request itself. `too_large` is the code for a request
    that asks for more than the whole limit.
    """

    kind: Literal["window"]
    meter: Name
    window: Amount
    limit: PlanAmount
    on_release: Literal["keep", "return"] = "keep"
    too_large: Name | None = None

    def compile(self, context: Context, path: Path) -> Window:
        """The window, its length in milliseconds."""
        meter = context.meter((*path, "meter"), self.meter)
        window_ms = context.duration((*path, "window"), self.window)
        scope = self.scope_order(context, path)
        return Window(
            **self.rule(context, path),
            meter=meter.name,
            scope=scope,
            optional_for=self.optional_actions(context, path),
            room=self.room_in(context, path, meter.unit),
            values=context.plan_values((*path, "limit"), self.limit, meter.unit),
            window_ms=window_ms,
            returns=self.on_release == "return",
            too_large=self.too_large or "",
            cell=cell_name(self.id, Kind.WINDOW, meter.name, scope, window_ms),
        )

    def codes(self) -> tuple[str, ...]:
        """Also the one for what is too large."""
        return (self.refuse, *([self.too_large] if self.too_large else []))

    def fills(self, context: Context) -> fields.Fills:
        """The figures, and when there will be room."""
        return {**fields.amounts(context.meters[self.meter].unit), **fields.RETRY_AFTER}
