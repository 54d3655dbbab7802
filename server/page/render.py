"""The page of a tenant as HTML."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from server.domain.hold import HoldView
from server.domain.ledger import LedgerEntry
from server.domain.limit_value import Source
from server.domain.limits.base import QueueLook
from server.domain.limits.quota import QuotaState
from server.domain.policy import BannerRule
from server.domain.units import MAX_AMOUNT
from server.page.bars import bar, small_bar
from server.page.figures import LowBalance, Notice, TenantFigures
from server.page.html import Content, Html, document, joined, tag
from server.views import QuotaView

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999
_SPANS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
_SOURCES: Final = {Source.POLICY: "policy", Source.PLAN: "plan", Source.OVERRIDE: "override"}
_STATES: Final = {
    QuotaState.OVERAGE: "Used up; more is served.",
    QuotaState.GRACE: "Used up; more is served in grace.",
    QuotaState.ENFORCED: "Used up; nothing more fits.",
}


def page(
    title: str, policies: Sequence[str], chosen: Mapping[str, str], dimensions: Sequence[str], main: Html
) -> bytes:
    """A whole page: the form to choose a tenant with, and `main`."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="stylesheet", href="page.css"),
        tag("script", src="page.js", defer=True),
    )
    header = tag(
        "header",
        tag("p", "Holdgate ", tag("span", "usage", class_="quiet"), class_="brand"),
        _form(policies, chosen, dimensions),
        tag("p", id="live", class_="quiet", role="status", hidden=True),
    )
    return document(tag("html", head, tag("body", header, tag("main", main, id="main")), lang="en"))


def _form(policies: Sequence[str], chosen: Mapping[str, str], dimensions: Sequence[str]) -> Html:
    options = [tag("option", name, value=name, selected=name == chosen.get("policy")) for name in policies]
    fields = [
        tag("label", "Policy", tag("select", options, name="policy")),
        tag("label", "Tenant", tag("input", name="tenant", value=chosen.get("tenant", ""), required=True)),
        *(
            tag("label", name, tag("input", name=f"scope.{name}", value=chosen.get(f"scope.{name}", "")))
            for name in dimensions
        ),
    ]
    return tag("form", fields, tag("button", "Show"), action=".", method="get")


def welcome() -> Html:
    """What stands below the form while no tenant is chosen."""
    return tag("p", "Choose a policy and name a tenant to see what it has used.", class_="quiet")


def problem(text: str) -> Html:
    """What stands there when the tenant cannot be shown."""
    return tag("p", text, class_="problem", role="alert")


def tenant(figures: TenantFigures) -> Html:
    """All about a tenant."""
    about = f"policy {figures.ref.policy} {figures.policy_version} · plan {figures.plan} · as of {at(figures.now_ms)}"
    return joined(
        [_banner(figures.notice)] if figures.notice is not None else [],
        [_worded(figures.banner)] if figures.banner is not None else [],
        map(_low_banner, figures.low_balances),
        tag("h1", figures.ref.tenant),
        tag("p", about, class_="quiet"),
        [] if figures.available else tag("p", "Coming soon: use is counted, and not shown yet.", class_="quiet"),
        _section("quotas", "Allowances", [tag("div", map(_quota, figures.quotas), class_="cards")], figures.quotas),
        _section("limits", "Limits", [_limits(figures)], figures.other_results),
        _section("holds", "Open holds", [_holds(figures)], figures.holds),
        _section("ledger", "Ledger", [_ledger(figures)], figures.ledger),
        _section("values", "Where values come from", [_values(figures)], figures.limits),
    )


def _section(name: str, title: str, contents: Iterable[Content], shown: Sequence[object]) -> Html:
    if not shown:
        return Html("")
    return tag("section", tag("h2", title, id=name), contents, aria_labelledby=name)


def _banner(notice: Notice) -> Html:
    view = notice.quota
    told = f"{notice.percent}% of the allowance is used" if notice.percent < 100 else "the allowance is used up"  # noqa: PLR2004  # percent
    words = f"{_name(view)}: {told}, {view.current.used:,} of {view.current.limit:,} {view.limit.meter}."
    return tag(
        "p", tag("strong", f"{notice.threshold}% reached. "), words, class_=f"banner {notice.level}", role="alert"
    )


def _low_banner(low: LowBalance) -> Html:
    limit = low.limit
    words = f"{limit.label}: {low.left:,} {limit.meter} left." if low.left else f"{limit.label}: nothing is left."
    strong = tag("strong", f"Down to {low.mark:,}. ") if low.mark else ""
    return tag("p", strong, words, class_=f"banner {low.level}", role="alert")


def _worded(banner: BannerRule) -> Html:
    """A banner in the policy's words; its level has a colour where it is one of ours."""
    return tag("p", banner.text, class_=f"banner {banner.level}", role="alert")


def _quota(view: QuotaView) -> Html:
    cycle, meter = view.current, view.limit.meter
    percent = view.percent
    share = [tag("span", f"{percent}%", class_="percent")] if percent is not None else []
    title = tag("h3", _name(view), share)
    of = f" of {cycle.limit:,}" if cycle.limit < MAX_AMOUNT else ""
    held = f", {cycle.held:,} more held" if cycle.held else ""
    dates = f"{day(cycle.terms.start_ms)} to {day(cycle.terms.end_ms)}"
    lines = [
        tag("p", tag("strong", f"{cycle.used:,}"), f"{of} {meter} used{held}"),
        tag("p", dates, f", resets in {span(cycle.terms.end_ms - view.now_ms)}", class_="quiet"),
    ]
    if cycle.limit == MAX_AMOUNT:
        lines.append(tag("p", "Unlimited.", class_="quiet"))
    if state := _STATES.get(cycle.state(view.now_ms)):
        lines.append(tag("p", state))
    return tag("article", title, bar(view), lines, _projection(view))


def _projection(view: QuotaView) -> Html:
    found = view.projection
    if found is None:
        return Html("")
    ends = f"; used up {at(found.exhausted_at_ms)}" if found.exhausted_at_ms is not None else ""
    text = f"Projected {found.used:,} by {day(view.current.terms.end_ms)}{ends}"
    return tag("p", text, f" ({found.confidence.name.lower()} confidence)", class_="quiet projection")


def _name(view: QuotaView) -> str:
    scope = ", ".join(f"{name} {value}" for name, value in view.scope.items())
    return f"{view.limit.label} ({scope})" if scope else view.limit.label


def _limits(figures: TenantFigures) -> Html:
    def rows() -> Iterator[Sequence[Content]]:
        for result in figures.other_results:
            look, scope = result.look, ", ".join(f"{name} {value}" for name, value in result.scope.items())
            bounded = look.cap < MAX_AMOUNT
            yield (
                tag("span", result.limit.label, title=result.limit.id),
                scope,
                small_bar(look.used - look.held, look.held, look.cap) if bounded else "",
                f"{look.used:,}",
                f"{look.held:,}" if look.held else "",
                f"{look.cap:,}" if bounded else "unlimited",
                f"{result.remaining:,}" if bounded else "",
                f"{look.queued:,} of {look.queue_cap:,}" if isinstance(look, QueueLook) else "",
                span(look.reset_ms) if look.reset_ms > 0 else "",
            )

    names = ("Limit", "For", "", "Used", "Held", "Limit", "Left", "Waiting", "Frees in")
    return _table(names, rows(), numbers=(3, 4, 5, 6, 7, 8))


def _values(figures: TenantFigures) -> Html:
    rows = (
        (
            tag("span", each.limit.label, title=each.limit.id),
            each.limit.kind.name.lower(),
            each.limit.meter,
            ", ".join(each.limit.scope),
            f"{each.value.value:,}" if each.value.value is not None else "unlimited",
            _SOURCES[each.value.source],
        )
        for each in figures.limits
        if each.limit.cell
    )
    return _table(("Limit", "Kind", "Meter", "Per", "Value", "From"), rows, numbers=(4,))


def _holds(figures: TenantFigures) -> Html:
    rows = (
        (
            tag("code", hold.hold_id),
            hold.note.action,
            ", ".join(f"{name} {value}" for name, value in hold.note.scope.items()),
            ", ".join(_amounts(hold)),
            span(figures.now_ms - hold.created_at_ms),
            span(hold.lease_ends_at_ms - figures.now_ms),
        )
        for hold in figures.holds
    )
    table = _table(("Hold", "Action", "For", "Holds", "Age", "Lease ends in"), rows, numbers=(4, 5))
    more = tag("p", f"The first {len(figures.holds)} by the end of their leases; there are more.", class_="quiet")
    return joined(table, [more] if figures.more_holds else [])


def _amounts(hold: HoldView) -> Iterator[str]:
    for meter, totals in hold.meters.items():
        reported = f", {totals.reported:,} reported" if totals.reported else ""
        yield f"{totals.reserved:,} {meter}{reported}"


def _ledger(figures: TenantFigures) -> Html:
    def row(entry: LedgerEntry) -> Sequence[Content]:
        return (
            f"{entry.sequence:,}",
            at(entry.at_ms),
            entry.cause.name.lower().replace("_", " "),
            tag("code", entry.reference),
            figures.limit_ids.get(entry.cell, entry.cell),
            f"{entry.units:+,}",
            f"{entry.after.available:,}",
        )

    names = ("No.", "When", "Why", "Reference", "Balance", "Units", "Available")
    return _table(names, map(row, figures.ledger), numbers=(0, 5, 6))


def _table(names: Sequence[str], rows: Iterable[Sequence[Content]], *, numbers: Sequence[int]) -> Html:
    """A table that scrolls on its own where the window is narrow; `numbers` are the columns that align right."""

    def cell(name: str, place: int, content: Content) -> Html:
        return tag(name, content, class_="number" if place in numbers else None, scope="col" if name == "th" else None)

    def line(name: str, contents: Sequence[Content]) -> Html:
        return tag("tr", (cell(name, place, content) for place, content in enumerate(contents)))

    body = tag("tbody", (line("td", row) for row in rows))
    return tag("div", tag("table", tag("thead", line("th", names)), body), class_="scrolls", tabindex=0, role="group")


def day(at_ms: int) -> str:
    """A date, in UTC."""
    return f"{_at(at_ms):%Y-%m-%d}"


def at(at_ms: int) -> str:
    """An instant, in UTC."""
    return f"{_at(at_ms):%Y-%m-%d %H:%M:%S} UTC"


def _at(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=min(max(at_ms, 0), _LAST_MS))


def span(duration_ms: int) -> str:
    """A duration in its two largest units, rounded down, such as `20 d 12 h`."""
    parts: list[str] = []
    for unit, size_ms in _SPANS:
        count, duration_ms = divmod(max(duration_ms, 0), size_ms)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ")) or "less than 1 s"
