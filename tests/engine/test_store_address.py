"""Store URLs: what they mean, and what a wrong one is told."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from server.engine.client import StoreConnection
from server.engine.store_address import StoreAddress
from server.engine.store_errors import StoreError, StoreUnavailable
from tests.stores import REDIS, free_port, running_store


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("redis://store", StoreAddress(host="store"), "redis://store:6379/0"),
        ("redis://store:7000/3", StoreAddress(host="store", port=7000, db=3), "redis://store:7000/3"),
        ("redis://store?db=3", StoreAddress(host="store", db=3), "redis://store:6379/3"),
        ("redis://[::1]:7000", StoreAddress(host="::1", port=7000), "redis://[::1]:7000/0"),
        ("redis://", StoreAddress(host="localhost"), "redis://localhost:6379/0"),
        ("redis://:p%40ss@store", StoreAddress("store", 6379, "", 0, None, "p@ss"), "redis://store:6379/0"),
        (
            "redis://user:p%2Fss@store",
            StoreAddress("store", 6379, "", 0, "user", "p/ss"),
            "redis://store:6379/0",
        ),
        ("unix:///run/a%20store.sock", StoreAddress(path="/run/a store.sock"), "unix:///run/a%20store.sock"),
        ("unix://user:p%3Ass@/run/s?db=2", StoreAddress("", 6379, "/run/s", 2, "user", "p:ss"), "unix:///run/s?db=2"),
    ],
)
def test_a_url_is_read_and_shown_without_its_password(url: str, expected: StoreAddress, shown: str) -> None:
    address = StoreAddress.parse(url)
    assert address == expected
    assert str(address) == shown
    assert str(address.password) not in repr(address) or address.password is None


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://store", "starts with 'http'"),
        ("localhost:6379", "expected redis://"),
        ("redis://store/first", "database 'first'"),
        ("redis://store?timeout=3", "unknown options timeout"),
        ("redis://store?ssl_ca_certs=ca.pem", "rediss://"),
        ("redis://user@store", "a user without a password"),
        ("redis://:se#cret@store", "percent-encoded"),
        ("redis://store:99999", "no valid port"),
        ("unix://run/store.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("rediss://store?ssl_ca_certs=/nowhere.pem", "certificate files"),
        ("rediss://store?ssl_cert_reqs=maybe", "none, optional or required"),
        ("rediss://store?ssl_check_hostname=maybe", "true or false"),
    ],
)
def test_a_wrong_url_is_told_what_is_wrong_with_it(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        StoreAddress.parse(url)
    assert "cret" not in str(refused.value)


def test_tls_verifies_the_store_unless_told_otherwise() -> None:
    strict = StoreAddress.parse("rediss://store").tls
    lax = StoreAddress.parse("rediss://store?ssl_cert_reqs=none").tls
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert lax is not None
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    assert str(StoreAddress.parse("rediss://store")) == "rediss://store:6379/0"


@pytest.mark.skipif(REDIS is None, reason="no redis-server on the PATH, and the bundled Valkey has no TLS")
async def test_tls_reaches_a_store_that_its_authority_vouches_for(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    port = free_port()
    files = ("--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem")
    options = (
        "--tls-port",
        str(port),
        *files,
        "--tls-ca-cert-file",
        f"{tmp_path}/cert.pem",
        "--tls-auth-clients",
        "no",
    )
    with running_store(*options, binary=str(REDIS)) as store:
        connection = StoreConnection(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/cert.pem")
        await connection.connect()
        assert await connection.call("INCR", "key") == 1
        await connection.close()

        assert "certificate verify failed" in await refusal(f"rediss://localhost:{port}")
        assert "rediss://" in await refusal(f"redis://localhost:{port}")
        assert store.command("GET", "key") == b"1"


async def test_nobody_at_the_address_is_said_so(tmp_path: Path) -> None:
    for url in (f"redis://127.0.0.1:{free_port()}", f"unix://{tmp_path}/none.sock"):
        with pytest.raises(StoreUnavailable, match="cannot reach the store at"):
            await StoreAddress.parse(url).open(asyncio.Protocol)


async def refusal(url: str) -> str:
    connection = StoreConnection(url)
    with pytest.raises(StoreError) as refused:
        await connection.connect()
    await connection.close()
    return str(refused.value)


def make_certificate(folder: Path) -> None:
    """A self-signed certificate for localhost."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603  # our own words
