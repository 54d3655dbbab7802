"""What a run's report says, as text, JSON and a page."""

import io
import json
import re
from html.parser import HTMLParser

import grpc
import orjson
import pytest
from quota.v1 import decision_pb2
from rich.console import Console

from loadtest.audit import Audit, Finding
from loadtest.cli import status_of
from loadtest.recorder import Interval, Recorder
from loadtest.report import Report, make_report
from loadtest.report_html import page, thinned
from loadtest.report_text import print_report
from loadtest.totals import Moment, Totals
from tests.loadtest.plans import plan

GRANTED = decision_pb2.Decision(outcome=decision_pb2.OUTCOME_GRANTED)
REFUSED = decision_pb2.Decision(outcome=decision_pb2.OUTCOME_REFUSED, refusal=decision_pb2.Refusal(code="<rate> & co"))
OFF = Finding("<b>tenant</b>", "credits: credits charged", "10", "11", 1)


def second(start_s: float, *, slow_ms: int = 0) -> Interval:
    """A second with 99 grants of 1 to 99 ms, one refusal at once, a failed settle and a timeout of 2 s."""
    recorder = Recorder(100.0)
    recorder.cut(100.0 + start_s)
    for number in range(1, 100):
        recorder.decided(GRANTED, 100.0 + start_s, 100.0 + start_s + (number + slow_ms) / 1000)
    recorder.decided(REFUSED, 100.0 + start_s, 100.0 + start_s)
    recorder.failed("Settle", grpc.StatusCode.INTERNAL, 100.0 + start_s, 100.0 + start_s)
    recorder.failed("CheckAndReserve", grpc.StatusCode.DEADLINE_EXCEEDED, 100.0 + start_s, 102.0 + start_s)
    recorder.decided(GRANTED, 99.9, 100.0)  # due in the warm-up
    return recorder.cut(101.0 + start_s)


def report(audit: Audit | None = None, *words: str) -> Report:
    """A run of three seconds on two processes."""
    totals = Totals()
    for start_s in range(3):
        totals.add(second(start_s))
        totals.add(second(start_s, slow_ms=100))
    made = plan("--tenants", "1000", *words)
    return make_report(made, totals, started_at="2026-01-01T00:00:00+00:00", audit=audit, notes=["A note <here>."])


def test_processes_are_merged_and_the_warm_up_is_left_out() -> None:
    found = report()

    assert found.counts.granted == 3 * 2 * 99
    assert found.counts.refused["<rate> & co"] == 6
    assert found.elapsed_s == 3
    assert found.decisions_per_s == 200
    assert [moment.at_s for moment in found.moments] == [0, 1, 2]
    assert found.moments[1].granted == pytest.approx(198)


def test_percentiles_are_those_of_all_answers_and_timeouts() -> None:
    latency = report().latencies["CheckAndReserve"]

    assert latency.count == 3 * 2 * 101
    assert latency.p50_ms == pytest.approx(99, abs=2)
    assert latency.p90_ms == pytest.approx(181, abs=2)
    assert latency.max_ms == pytest.approx(2000, rel=0.01)
    percentiles, values = zip(*latency.curve, strict=True)
    assert (percentiles[0], percentiles[-1]) == (0, 100)
    assert values[-1] == pytest.approx(2000, rel=0.01)
    assert list(values) == sorted(values)


def test_the_json_report_has_the_figures_under_stable_names() -> None:
    document = json.loads(orjson.dumps(report(Audit(tenants=2, figures=8, units_off=1, findings=[OFF])).document()))

    assert document["format"] == 1
    assert document["decisions"] == 600
    assert document["decisions_per_s"] == 200
    assert document["audit_units_off"] == 1
    assert document["outcomes"]["refused"] == {"<rate> & co": 6}
    assert document["outcomes"]["errors"] == {"Settle INTERNAL": 6, "CheckAndReserve DEADLINE_EXCEEDED": 6}
    assert document["latencies"]["CheckAndReserve"]["p99_9_ms"] == pytest.approx(2000, rel=0.01)
    assert document["audit"]["findings"][0]["tenant"] == "<b>tenant</b>"
    assert len(document["seconds"]) == 3


def test_the_text_names_figures_refusals_errors_and_differences() -> None:
    out = io.StringIO()
    print_report(Console(file=out, width=140), report(Audit(tenants=2, figures=8, units_off=1, findings=[OFF])))

    text = out.getvalue()
    for part in ("200 decisions per second", "refused: <rate> & co", "error: Settle INTERNAL", "A note <here>."):
        assert part in text
    assert "1 unit off; 8 figures of 2 tenants compared" in text
    assert re.search(r"<b>tenant</b>.*credits charged.*10.*11.*1", text)


class Elements(HTMLParser):
    """Collects a page's elements, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def close(self) -> None:
        super().close()
        assert self._open == []


def test_the_page_has_its_plots_and_needs_nothing_else() -> None:
    html = page(report(Audit(tenants=2, figures=8, units_off=1, findings=[OFF])))
    elements = Elements()
    elements.feed(html)
    elements.close()

    assert elements.names.count("svg") == 4
    assert not {"script", "link", "img", "iframe"} & set(elements.names)
    assert not {"src", "href"} & {name for name, _ in elements.attributes}
    assert "url(" not in html
    assert "@import" not in html
    assert not re.search(r"\b(nan|inf)\b", html)
    assert "&lt;rate&gt; &amp; co" in html
    assert "<b>tenant</b>" not in html
    assert 'class="verdict bad"' in html


def test_a_run_without_a_single_answer_still_has_a_page_and_a_table() -> None:
    empty = make_report(plan(), Totals(), started_at="now", audit=None, notes=[])
    out = io.StringIO()

    print_report(Console(file=out), empty)

    assert "0 decisions per second" in out.getvalue()
    assert "<figure>" in page(empty)
    assert empty.document()["p50_ms"] is None


def test_a_long_run_is_drawn_with_few_points_that_hide_no_peak() -> None:
    moments = [Moment(at, 10.0, 0.0, 0.0, 1.0, 2.0, 900.0 if at == 4321 else 3.0) for at in range(7200)]

    drawn = thinned(moments)

    assert len(drawn) == 600
    assert max(moment.max_ms or 0 for moment in drawn) == 900
    assert {moment.granted for moment in drawn} == {10.0}


@pytest.mark.parametrize(
    ("audit", "words", "status"),
    [
        (Audit(tenants=1, figures=4), (), 0),
        (Audit(units_off=1), (), 1),
        (Audit(unknown=1), (), 1),
        (None, (), 1),
        (Audit(failure="GetUsage: UNAVAILABLE"), (), 3),
        (None, ("--no-audit",), 0),
    ],
)
def test_the_exit_status_says_what_the_audit_came_to(audit: Audit | None, words: tuple[str, ...], status: int) -> None:
    assert status_of(report(audit, *words)) == status
