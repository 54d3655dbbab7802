"""Bars as SVG: figures are attributes there, which a page without inline styles may have."""

from server.domain.projection import Projection
from server.domain.units import MAX_AMOUNT
from server.page.figures import colour_of, percent_of
from server.page.html import Html, joined, tag
from server.views import QuotaView


def bar(view: QuotaView) -> Html:
    """A quota's bar: used, held, and where the cycle is projected to end; nothing where there is no allowance."""
    cycle = view.current
    percent = percent_of(cycle.used, cycle.limit)
    if percent is None:
        return Html("")
    told = f"{percent}%: {cycle.used:,} of {cycle.limit:,} {view.limit.meter} used, {cycle.held:,} held"
    if view.projection is not None:
        told += f", projected {view.projection.used:,}"
    drawing = _drawing(cycle.used, cycle.held, cycle.limit, _marker(view.projection, cycle.limit), 16)
    return _meter(drawing, f"bar {colour_of(percent).value}", percent, told)


def small_bar(used: int, held: int, cap: int) -> Html:
    """The bar of any other limit; nothing where it has no bound."""
    percent = percent_of(used + held, cap)
    if percent is None or cap == MAX_AMOUNT:
        return Html("")
    told = f"{used + held:,} of {cap:,}"
    return _meter(_drawing(used, held, cap, Html(""), 8), f"small bar {colour_of(percent).value}", percent, told)


def _meter(drawing: Html, look: str, percent: int, told: str) -> Html:
    return tag(
        "div",
        drawing,
        class_=look,
        role="meter",
        aria_label="used",
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuenow=min(percent, 100),
        aria_valuetext=told,
    )


def _drawing(used: int, held: int, allowance: int, marker: Html, height: int) -> Html:
    parts = [tag("rect", class_="track", width="100%", height="100%")]
    if held:
        parts.append(tag("rect", class_="held", width=_share(used + held, allowance), height="100%"))
    if used:
        parts.append(tag("rect", class_="used", width=_share(used, allowance), height="100%"))
    return tag("svg", joined(parts, marker), width="100%", height=height, aria_hidden="true")


def _marker(projection: Projection | None, allowance: int) -> Html:
    """A line where the cycle is projected to end; at the very end for what is beyond it."""
    if projection is None:
        return Html("")
    share = _share(projection.used, allowance)
    beyond = " beyond" if projection.used > allowance else ""
    return tag("line", class_=f"projected{beyond}", x1=share, x2=share, y1=0, y2="100%")


def _share(units: int, allowance: int) -> str:
    """A part of the allowance in percent, to the thousandth, rounded down; at most all of it."""
    thousandths = min(units * 100_000 // allowance, 100_000)
    return f"{thousandths // 1000}.{thousandths % 1000:03}%"
