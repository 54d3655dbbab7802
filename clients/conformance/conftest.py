"""Certificates and servers that the tests of all languages share."""

from collections.abc import Iterator

import pytest

from clients.conformance.programs import SECURITY, TRANSPORTS, Certificates, golden_server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.made(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session", params=[f"{name}-{security}" for name in TRANSPORTS for security in SECURITY])
def served(
    request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """A server of each kind, with a clock that the transcripts set: its address, and how it is secured."""
    transport, _, security = request.param.partition("-")
    folder = tmp_path_factory.mktemp(request.param)
    flags = ("--test-clock", "--transport", transport, *certificates.of_server(security))
    with golden_server(folder, *flags) as server:
        yield server.address, security
