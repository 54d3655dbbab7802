"""The plain subrequest of proxies: what it cannot be, it is told; a client's own headers are none of its business."""

import asyncio
import http.client
from hashlib import sha256
from pathlib import Path

import pytest

from server.bootstrap import running
from tests.rpc.conftest import MakeSettings

TOKEN = "gateway"  # noqa: S105  # of a test
CALLERS = f"""\
callers:
  - name: gateway
    tokens_sha256: [{sha256(TOKEN.encode()).hexdigest()}]
    allow: [{{methods: [/authorize], tenants: ["*"]}}]
"""


async def asked(address: str, **headers: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=20)
        about = {"x-quota-tenant": "acme", "x-quota-action": "poll", "authorization": f"Bearer {TOKEN}"}
        connection.request("GET", "/authorize", headers=about | {n.replace("_", "-"): v for n, v in headers.items()})
        answer = connection.getresponse()
        said = answer.status, answer.read().decode()
        connection.close()
        return said

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("amount", ["9" * 5000, "9" * 17, "-1", "1.5", "\u00b2", ""])
async def test_an_amount_that_is_none_is_told(make_settings: MakeSettings, amount: str) -> None:
    async with running(make_settings(transport="asgi")) as app:
        status, text = await asked(app.address, x_quota_amounts=f"credits={amount}")
    assert status == 400
    assert "amounts[credits]" in text


async def test_a_clients_header_that_is_no_metadata_changes_nothing(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    callers = tmp_path / "callers.yaml"
    callers.write_text(CALLERS)
    async with running(make_settings(transport="asgi", callers=callers, test_clock=False)) as app:
        assert (await asked(app.address))[0] == 204
        assert (await asked(app.address, trace_bin="***"))[0] == 204
