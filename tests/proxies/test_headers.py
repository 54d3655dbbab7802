"""What clients are told of their limits, in headers and as a problem, by the endpoint for subrequests."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.bootstrap import App, running
from server.settings import from_flags
from tests.proxies.test_real_nginx import Answer, fetched

POLICY = """
policy: plain
tenant: org
meters: {requests: {per_request: 1}, tokens: {}, credits: {}}
plans: [free]
default_plan: free
actions: {call: {}, job: {}}
limits:
  - {id: rpm, kind: window, meter: requests, window: 60s, limit: 2, refuse: slow}
  - {id: tpd, kind: window, meter: tokens, window: 1h, limit: 100, refuse: slow}
  - {id: jobs, kind: slots, limit: 1, when: {action: job}, refuse: busy}
  - {id: watched, kind: window, meter: requests, window: 60s, limit: 1, shadow: true, refuse: slow}
  - {id: credits, kind: balance, meter: credits, refuse: poor}
refusals:
  slow: {http: 429, retryable: true, message: "Too fast."}
  busy: {http: 429, message: "Busy."}
  poor: {http: 402, message: "No money."}
"""


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    path = tmp_path / "plain.yaml"
    path.write_text(POLICY)
    flags = {"listen": "127.0.0.1:0", "policies": (path,), "store": "memory", "drain_seconds": 0}
    async with running(from_flags(flags)) as app:
        yield app


async def asked(app: App, action: str = "call", amounts: str = "") -> Answer:
    headers = {"x_quota_tenant": "acme", "x_quota_action": action, "x_quota_amounts": amounts}
    return await asyncio.to_thread(fetched, app.address, "/authorize", **headers)


async def test_a_grant_names_the_two_tightest_limits_and_no_balance(app: App) -> None:
    headers = (await asked(app, "job", "tokens=10")).headers
    assert headers["ratelimit-policy"] == '"jobs";q=1;qu="concurrent-requests", "rpm";q=2;w=60'
    assert headers["ratelimit"] == '"jobs";r=0, "rpm";r=1;t=60'
    assert headers["x-ratelimit-limit"] == '2, 2;w=60;name="rpm"'
    assert (headers["x-ratelimit-remaining"], headers["x-ratelimit-reset"]) == ("1", "60")
    assert "retry-after" not in headers


async def test_a_refusal_names_those_that_block_and_how_long_to_wait(app: App) -> None:
    for _ in range(2):
        assert (await asked(app)).status == 204
    answer = await asked(app, amounts="tokens=1")
    assert answer.headers["ratelimit"] == '"rpm";r=0;t=60'
    assert answer.headers["retry-after"] == "60"


async def test_where_waiting_does_not_help_there_is_no_hint(app: App) -> None:
    answer = await asked(app, amounts="credits=1")
    assert answer.headers["x-quota-status"] == "402"
    assert "retry-after" not in answer.headers
    assert '"credits"' not in answer.headers["ratelimit"]


async def test_without_an_envelope_a_refusal_is_a_problem(app: App) -> None:
    answer = await asked(app, amounts="tokens=101, credits=1")
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert (problem["status"], problem["code"], problem["title"]) == (402, "poor", "No money.")
    assert problem["violated-policies"] == ["tpd", "credits"]
    assert problem["type"].endswith("#quota-exceeded")
