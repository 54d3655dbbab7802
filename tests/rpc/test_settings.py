"""Settings come from flags, then from the environment, and say which of them cannot be read."""

import argparse
from pathlib import Path

import pytest

from server import settings
from server.settings import Settings, SettingsError, Store


def parsed(*words: str) -> Settings:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    return settings.from_flags(vars(parser.parse_args(words)))


def test_without_a_word_a_server_listens_on_loopback_with_a_store_of_its_own() -> None:
    found = parsed()
    assert found.listen == "127.0.0.1:50051"
    assert found.policies == (Path("policies"),)
    assert found.store_kind is Store.EMBEDDED
    assert not found.test_clock


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDGATE_STORE_TIMEOUT_MS", "250")
    monkeypatch.setenv("HOLDGATE_POLICIES", "a.yaml:more")
    monkeypatch.setenv("HOLDGATE_MAX_CELLS", "")
    found = parsed()
    assert (found.store_timeout_s, found.max_cells) == (0.25, 1000)
    assert found.policies == (Path("a.yaml"), Path("more"))
    assert parsed("--store-timeout-ms", "100").store_timeout_s == 0.1


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], Store.EMBEDDED),
        (["--redis-url", "redis://localhost"], Store.REDIS),
        (["--redis-url", "redis://localhost", "--store", "memory"], Store.MEMORY),
        (["--redis-url", "redis://localhost", "--store", "embedded"], Store.EMBEDDED),
    ],
)
def test_a_url_chooses_redis_unless_another_store_is_named(words: list[str], kind: Store) -> None:
    assert parsed(*words).store_kind is kind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "localhost"], "--listen=localhost: expected host:port"),
        (["--listen", "localhost:x"], "--listen=localhost:x: expected host:port"),
        (["--listen", "localhost:70000"], "--listen=localhost:70000: expected host:port"),
        (["--store", "disk"], "--store=disk: "),
        (["--store-timeout-ms", "0"], "--store-timeout-ms=0: "),
        (["--drain-seconds", "-1"], "--drain-seconds=-1: "),
        (["--decision-log-rate", "1.5"], "--decision-log-rate=1.5: "),
        (["--log-level", "loud"], "--log-level=loud: "),
        (["--policies", ":"], "--policies=:: names no file"),
        (["--store", "redis"], "--store redis needs --redis-url"),
        (["--tls-cert", "a.pem"], "TLS needs both --tls-cert and --tls-key"),
        (["--tls-client-ca", "a.pem"], "--tls-client-ca needs --tls-cert"),
        (["--test-clock", "--listen", "0.0.0.0:1"], "--test-clock lets anybody set the time"),
        (["--test-clock", "--listen", "myhost:1"], "--test-clock lets anybody set the time"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_its_flag(words: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed(*words)
    assert str(caught.value).startswith(said)


def test_every_value_that_cannot_be_read_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDGATE_FSYNC", "never")
    with pytest.raises(SettingsError) as caught:
        parsed("--max-cells", "many")
    said = str(caught.value).splitlines()
    assert [line.partition("=")[0] for line in said] == ["HOLDGATE_FSYNC", "--max-cells"]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.9.1:1", "[::1]:1", "localhost:1"])
def test_the_test_clock_is_for_loopback(address: str) -> None:
    assert parsed("--test-clock", "--listen", address).test_clock


def test_a_password_is_never_shown() -> None:
    found = parsed("--redis-url", "redis://user:hunter2@localhost")
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    "url",
    ["example.com/hook", "ftp://example.com", "https://", "https://user@example.com/", "https://u:p@example.com/"],
)
def test_a_webhook_is_at_a_url_without_a_user(url: str) -> None:
    with pytest.raises(SettingsError, match="expected a URL such as"):
        parsed("--webhook-url", url, "--webhook-secret-file", "secrets")


@pytest.mark.parametrize("port", ["99999", "abc", "0"])
@pytest.mark.parametrize("flag", ["--webhook-url", "--otlp-endpoint"])
def test_a_url_with_a_port_that_is_none_is_told_at_the_start(flag: str, port: str) -> None:
    """Otherwise every attempt to send something there would fail, one after the other."""
    with pytest.raises(SettingsError, match=f"{flag}=https://example.com:{port}: "):
        parsed(flag, f"https://example.com:{port}", "--webhook-secret-file", "secrets")


@pytest.mark.parametrize("flags", [("--webhook-url", "https://example.com"), ("--webhook-secret-file", "secrets")])
def test_a_webhook_needs_its_url_and_its_secrets(flags: tuple[str, str]) -> None:
    with pytest.raises(SettingsError, match="needs both --webhook-url and --webhook-secret-file"):
        parsed(*flags)


def test_every_setting_is_explained_with_its_default_and_its_variable() -> None:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    text = " ".join(parser.format_help().split())
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"HOLDGATE_{name.upper()}" in text
        assert f"--{name.replace('_', '-')}" in text
