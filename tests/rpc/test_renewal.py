"""Certificates are renewed under traffic: nothing is lost, and who connects then sees the new one."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc import aio

from server.bootstrap import App, running
from server.rpc.transports import renewal
from tests.certificates import Authority, Pair
from tests.rpc.conftest import MakeSettings
from tests.system.gateway import PRICE, Gateway
from tests.waiting import until

CHANNELS: Final = 4
OPENING: Final = 10_000_000
PAID_WORK: Final = Path(__file__).parent.with_name("system") / "policy.yaml"

SENT_AGAIN: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""What every client should have: h2corn closes a connection that is told to go at once, so a call that its client sends
at that very instant ends there, and the client cannot know whether it was read.
"""


def shown(app: App) -> str:
    """The certificate that somebody who connects now is shown, as PEM."""
    host, _, port = app.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def put(used: Pair, new: Pair) -> None:
    used.certificate.write_bytes(new.certificate.read_bytes())
    used.key.write_bytes(new.key.read_bytes())


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_nothing_is_lost_or_charged_twice_and_new_connections_see_the_new_certificate(
    make_settings: MakeSettings, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "INTERVAL_S", 0.05)
    authority = Authority(tmp_path)
    used, pairs = authority.server("used"), [authority.server(f"new-{number}") for number in range(2)]
    settings = make_settings(policies=(PAID_WORK,), transport=transport, tls_cert=used.certificate, tls_key=used.key)
    stopped = False
    answered = 0

    async def call(name: str, gateway: Gateway) -> None:
        nonlocal answered
        number = 0
        while not stopped:
            await gateway.take(f"{name}-{number}")
            number += 1
            answered += 1

    async with running(settings) as app:
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", SENT_AGAIN))
        channels = [aio.secure_channel(app.address, credentials, options=options) for _ in range(CHANNELS)]
        gateways = [Gateway(channel) for channel in channels]
        await gateways[0].open_account(OPENING)
        traffic = [asyncio.create_task(call(str(number), gateway)) for number, gateway in enumerate(gateways)]
        for pair in pairs:
            before = answered
            await until(lambda before=before: answered > before + 50, what="traffic")  # type: ignore[misc]  # bound now
            put(used, pair)
            wanted = pair.certificate.read_text()
            async with asyncio.timeout(20):
                while await asyncio.to_thread(shown, app) != wanted:
                    pass
        before = answered
        await until(lambda: answered > before + 50, what="traffic after the last renewal")
        stopped = True
        await asyncio.gather(*traffic)
        assert (await gateways[0].credits()).held == answered * PRICE
        await asyncio.gather(*(channel.close() for channel in channels))


@pytest.mark.parametrize("transport", ["asgi", "grpcio"])
async def test_a_bad_certificate_changes_nothing(
    make_settings: MakeSettings, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "INTERVAL_S", 0.05)
    authority = Authority(tmp_path)
    used, other = authority.server("used"), authority.server("other")
    settings = make_settings(transport=transport, tls_cert=used.certificate, tls_key=used.key)
    async with running(settings) as app:
        first = await asyncio.to_thread(shown, app)
        used.certificate.write_bytes(other.certificate.read_bytes())  # its key is another one's
        for _ in range(20):
            assert await asyncio.to_thread(shown, app) == first
