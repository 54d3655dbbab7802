"""The examples run as they stand, and their back-off is the documented one."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from examples.kynasmith.backoff import RETRIES, Answer, wait_s, with_back_off
from examples.kynasmith.middleware import action_of
from tests.stores import ROOT

THROTTLED = b'{"error": {"code": "rate_limited"}}'
USED_UP = b'{"error": {"code": "quota_exceeded"}}'


def test_the_gateway_throttles_and_its_client_waits_as_told() -> None:
    words = [sys.executable, "-m", "examples.kynasmith.demo"]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # our own example
    assert run.returncode == 0, run.stdout + run.stderr
    assert "after waiting 60 s: 200" in run.stdout


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([Answer(200, {}, b"")], []),
        ([Answer(429, {"Retry-After": "7"}, THROTTLED), Answer(200, {}, b"")], [7.0]),
        ([Answer(429, {"Retry-After": "7"}, THROTTLED)] * 9, [7.0] * RETRIES),
        ([Answer(403, {}, USED_UP)], []),
        ([Answer(429, {"Retry-After": "7"}, USED_UP)], []),
        ([Answer(429, {"Retry-After": "7"}, b"not JSON")], []),
    ],
)
def test_only_throttled_calls_are_tried_again_and_four_times_at_most(
    answers: Sequence[Answer], waits: Sequence[float]
) -> None:
    left, slept = list(answers), list[float]()
    answer = with_back_off(lambda: left.pop(0), slept.append)
    assert slept == waits
    assert answer == answers[len(waits)]


def test_without_a_hint_waits_double_up_to_half_a_minute() -> None:
    for attempt, least_s in enumerate((1, 2, 4, 8, 16, 30, 30)):
        waits = [wait_s(Answer(429, {}, THROTTLED), attempt) for _ in range(100)]
        assert all(least_s <= wait <= min(least_s + 0.5, 30) for wait in waits)


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/api/usage", "usage.read"),
        ("GET", "/api/usage/projects/p1", "usage.read"),
        ("POST", "/api/sessions", "session.create"),
        ("GET", "/api/sessions", "api.call"),
        ("GET", "/api/movespecs/7", "movespec.read"),
        ("POST", "/api/movespecs", "movespec.create"),
        ("PATCH", "/api/movespecs/7", "movespec.update"),
        ("DELETE", "/api/movespecs/7", "movespec.delete"),
        ("POST", "/api/detections", "api.call"),
    ],
)
def test_each_route_is_an_action_of_the_policy(method: str, path: str, action: str) -> None:
    assert action_of(method, path) == action
