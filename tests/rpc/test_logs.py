"""The log: JSON where a machine reads it, text where a person does, decisions by sample."""

import io
import json
import logging
from collections.abc import Iterator
from time import perf_counter

import pytest
import structlog
from structlog.testing import capture_logs

from server import logs
from server.domain.decision import Decision
from server.domain.operation import Operation, TenantRef
from server.logs import DecisionLog, log

OPERATION = Operation(ref=TenantRef("lab", "acme"), action="work")
GRANT = Decision(granted=True, policy_version="v1", results=(), amounts={})


class Terminal(io.StringIO):
    """A stream that a person reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_events_of_ours_and_of_libraries_are_json_lines() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    log.info("quota.decided", tenant="ünï", hold_id=None)
    logging.getLogger("library").warning("it is %s", "so")
    log.debug("not.wanted")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["tenant"], ours["hold_id"]) == ("quota.decided", "info", "ünï", None)
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("it is so", "warning", "library")


def test_a_traceback_is_one_field() -> None:
    stream = io.StringIO()
    logs.configure("info", stream)
    log.error("rpc.failed", exc_info=ValueError("the cause"))
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: the cause" in json.loads(line)["exception"]


def test_a_person_at_a_terminal_reads_text() -> None:
    stream = Terminal()
    logs.configure("info", stream)
    log.info("server.draining", seconds=2)
    assert "server.draining" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("rate", "told"), [(0.0, 0), (1.0, 50)])
def test_decisions_are_logged_at_the_rate_asked_for(rate: float, told: int) -> None:
    decisions = DecisionLog(rate)
    with capture_logs() as logged:
        for _ in range(50):
            decisions.decided(OPERATION, GRANT, perf_counter())
    assert len(logged) == told
    assert all(event["event"] == "quota.decided" and event["outcome"] == "granted" for event in logged)
