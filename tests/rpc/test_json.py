"""JSON over plain HTTP, as curl and scripts use it; on the asgi transport alone."""

import asyncio
import json
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from server.bootstrap import App, running
from server.rpc.transports.base import MAX_REQUEST_BYTES
from tests.rpc.conftest import MakeSettings

ANSWER_S = 20


def posted(app: App, method: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{app.address}/{method}", data, names)  # loopback
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as found:  # noqa: S310  # loopback
            return found.status, json.load(found)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def call(app: App, method: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
    return await asyncio.to_thread(posted, app, f"quota.v1.QuotaService/{method}", body, **headers)


async def test_a_call_is_answered_as_over_grpc(app: App, tenant: str) -> None:
    ask = {
        "tenant": tenant,
        "requestId": "r-1",
        "action": "work",
        "scope": {"project": "p"},
        "amounts": {"credits": 30},
    }
    status, answer = await call(app, "CheckAndReserve", ask)
    assert status == 200, answer
    assert answer["decision"]["outcome"] == "OUTCOME_GRANTED"
    assert answer["decision"]["holdId"] == "r-1"
    status, answer = await call(app, "Settle", {"tenant": tenant, "holdId": "r-1", "usage": {"used": {"credits": "7"}}})
    assert (status, answer["state"], answer["applied"]) == (200, "HOLD_STATE_SETTLED", True)


async def test_an_error_has_its_code_its_message_and_what_is_wrong_with_each_field(app: App) -> None:
    status, error = await call(app, "CheckAndReserve", {"action": "dance"})
    assert (status, error["code"]) == (400, "invalid_argument")
    assert "tenant" in error["message"]
    told = {detail["type"]: detail["debug"] for detail in error["details"]}
    assert told["google.rpc.ErrorInfo"]["reason"] == "ERROR_REASON_INVALID_REQUEST"
    assert "tenant" in {bad["field"] for bad in told["google.rpc.BadRequest"]["fieldViolations"]}


async def test_a_missing_hold_is_not_found(app: App, tenant: str) -> None:
    status, error = await call(app, "Settle", {"tenant": tenant, "holdId": "nobody"})
    assert (status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"tenant": "acme", "toknes": 5},
        {"tenant": 5},
        {"amounts": {"credits": "many"}},
        {"amounts": {"credits": 1.5}},
        {"amounts": [1]},
        [],
        b"{",
        b"\xff\xfe",
        b"",
    ],
)
async def test_json_that_is_no_such_message_is_a_bad_request(app: App, body: object) -> None:
    status, error = await call(app, "CheckAndReserve", body)
    assert (status, error["code"]) == (400, "invalid_argument")


async def test_a_body_that_is_too_large_is_not_read_to_its_end(app: App) -> None:
    status, error = await call(app, "CheckAndReserve", b" " * (MAX_REQUEST_BYTES + 1))
    assert (status, error["code"]) == (429, "resource_exhausted")


@pytest.mark.parametrize("method", ["quota.v1.QuotaService/Dance", "quota.v1.QuotaService/Stream", "elsewhere"])
async def test_what_is_no_unary_method_is_unimplemented(app: App, method: str) -> None:
    status, error = await asyncio.to_thread(posted, app, method, {})
    assert (status, error["code"]) == (501, "unimplemented")


async def test_a_deadline_is_kept(app: App, tenant: str) -> None:
    status, error = await call(app, "GetUsage", {"tenant": tenant}, connect_timeout_ms="1")
    assert (status, error["code"]) == (504, "deadline_exceeded")
    status, error = await call(app, "GetUsage", {"tenant": tenant}, connect_timeout_ms="soon")
    assert (status, error["code"]) == (400, "invalid_argument")
    assert (await call(app, "GetUsage", {"tenant": tenant}, connect_timeout_ms="10000"))[0] == 200
    for digits in (11, 400, 5000):
        status, error = await call(app, "GetUsage", {"tenant": tenant}, connect_timeout_ms="9" * digits)
        assert (status, error["code"]) == (400, "invalid_argument")


async def test_metadata_that_is_not_what_it_says_is_the_callers_fault(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    callers = tmp_path / "callers.yaml"
    allow = '{methods: [quota.v1.QuotaService/*], tenants: ["*"]}'
    callers.write_text(f"callers: [{{name: a, tokens_sha256: [{'0' * 64}], allow: [{allow}]}}]")
    async with running(make_settings(transport="asgi", callers=callers)) as app:
        status, error = await call(app, "GetUsage", {"tenant": "acme"}, trace_bin="***")
    assert (status, error["code"], error["message"]) == (
        400,
        "invalid_argument",
        "the metadata trace-bin is not base64",
    )


async def test_the_reference_transport_has_no_json(make_settings: MakeSettings) -> None:
    async with running(make_settings(transport="grpcio")) as app:
        with pytest.raises(HTTPException):
            await call(app, "GetUsage", {"tenant": "acme"})
