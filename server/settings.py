"""Every setting of a server, in one definition: a flag of `holdgate serve` and a variable HOLDGATE_*.

A flag wins over its variable, a variable over the default. A value that cannot be read stops the start.
"""

import argparse
import ipaddress
import os
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENVIRONMENT_PREFIX: Final = "HOLDGATE_"
_LAST_PORT: Final = 65_535


class Store(StrEnum):
    """Where state is kept."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    REDIS = "redis"
    MEMORY = "memory"


class Fsync(StrEnum):
    """When the embedded store forces what it wrote to disk."""

    EVERYSEC = "everysec"
    ALWAYS = "always"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Transport(StrEnum):
    """What carries the calls."""

    AUTO = "auto"
    ASGI = "asgi"
    GRPCIO = "grpcio"


class SettingsError(Exception):
    """A setting cannot be used; the message is one line for each, naming the flag or variable."""


class Settings(BaseSettings):
    """What `holdgate serve` runs with."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    listen: str = Field("127.0.0.1:50051", description="address and port to serve on; port 0 takes a free one")
    transport: Transport = Field(
        Transport.AUTO,
        description="what carries the calls: asgi (h2corn, the fast one), grpcio (the reference), or auto: asgi where "
        "h2corn is installed",
    )
    workers: int = Field(
        1, ge=1, le=64, description="server processes on the one address; the kernel spreads connections over them"
    )
    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate chain; with it, TLS alone")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, not encrypted")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities; callers must show a certificate that comes from one of them"
    )
    callers: Path | None = Field(
        None, description="file of callers and what each may do; with it, nobody else may do anything"
    )
    admin_address: str = Field(
        "", description="address and port of AdminService, which is then served nowhere else; with the same TLS"
    )
    policies: Annotated[tuple[Path, ...], NoDecode] = Field(
        (Path("policies"),), description=f"policy files, or folders of *.yaml, separated by {os.pathsep!r}"
    )
    settings_file: Path | None = Field(
        None, description="file of NAME=VALUE lines with the operator's knobs that policies read"
    )
    store: Store = Field(
        Store.AUTO,
        description="where state is kept: redis (at the Redis URL), embedded (a Valkey of its own in the data folder), "
        "memory (gone at exit; for a first look), or auto: redis when there is a URL, else embedded",
    )
    redis_url: str = Field("", repr=False, description="Redis or Valkey to use, as redis://user:password@host:port/db")
    data_dir: Path = Field(
        Path(".holdgate"),
        description="folder of the embedded store, and of the file by which the server knows any store again; it must "
        "be writable",
    )
    fsync: Fsync = Field(
        Fsync.EVERYSEC,
        description="when the embedded store forces writes to disk: everysec loses up to a second at a power cut, "
        "always loses nothing and is slower",
    )
    store_timeout_ms: int = Field(500, ge=1, le=60_000, description="longest wait for the store per call")
    outage_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="part of each open limit that each process grants by itself while the store is gone; 0: nothing",
    )
    sweep_interval_ms: int = Field(
        10_000, ge=10, le=600_000, description="pause between two sweeps for overdue holds of idle tenants"
    )
    drain_seconds: float = Field(
        2.0, ge=0, le=300, description="how long calls are still taken after SIGTERM while health says NOT_SERVING"
    )
    max_cells: int = Field(1000, ge=1, le=100_000, description="most cells (limit and scope) that one tenant may have")
    webhook_url: str = Field(
        "", description="http or https URL that is told each notification, signed; needs --webhook-secret-file"
    )
    webhook_secret_file: Path | None = Field(
        None, description="file of the secrets to sign with, one to a line: whsec_ and 24 to 64 bytes in base64"
    )
    page_address: str = Field(
        "",
        description="address and port of the usage page, a page to look at for people; it asks nobody who they are, so "
        "keep it on loopback or behind a proxy that does",
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="least severe events to log: debug, info, warning, error")
    metrics_address: str = Field(
        "", description="address and port on which Prometheus may read metrics, such as 127.0.0.1:9464"
    )
    decision_log_rate: float = Field(
        0.01, ge=0, le=1, description="share of decisions to log as quota.decided, from 0 to 1"
    )
    otlp_endpoint: str = Field(
        "",
        description="http or https URL of a collector that takes traces by OTLP, such as http://127.0.0.1:4318; needs "
        "holdgate[tracing]",
    )
    trace_rate: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of calls to trace, from 0 to 1, of those whose callers say nothing about it; the others are "
        "traced where their callers are",
    )
    test_clock: bool = Field(
        default=False, description="serve TestClockService, by which a test sets the time; loopback only"
    )

    @field_validator("policies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("policies")
    @classmethod
    def _some(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if not value:
            raise ValueError("names no file; expected at least one")
        return value

    @field_validator("listen", "page_address", "metrics_address", "admin_address")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        host, colon, port = value.rpartition(":")
        if not value and info.field_name != "listen":
            return value
        if not (colon and host and port.isascii() and port.isdecimal() and int(port) <= _LAST_PORT):
            raise ValueError("expected host:port, such as 127.0.0.1:50051 or [::1]:50051")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.store is Store.REDIS and not self.redis_url:
            raise ValueError(f"--store redis needs --redis-url or {ENVIRONMENT_PREFIX}REDIS_URL")
        if self.test_clock and not is_loopback(self.listen):
            raise ValueError(f"--test-clock lets anybody set the time: it needs a loopback address, not {self.listen}")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS needs both --tls-cert and --tls-key")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key: without TLS nobody shows a certificate")
        return self

    @field_validator("webhook_url", "otlp_endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        url = urlsplit(value)
        fits = url.scheme in {"http", "https"} and url.hostname and url.username is None
        if value and not (fits and url.port != 0):  # which raises ValueError for what is none
            raise ValueError("expected a URL such as https://example.com:4318/path, without a user in it")
        return value

    @model_validator(mode="after")
    def _webhook_is_whole(self) -> Self:
        if bool(self.webhook_url) != bool(self.webhook_secret_file):
            raise ValueError("a webhook needs both --webhook-url and --webhook-secret-file")
        return self

    @model_validator(mode="after")
    def _workers_share(self) -> Self:
        if self.workers > 1 and self.store_kind is Store.MEMORY:
            raise ValueError("--store memory is one process's own: it needs --workers 1")
        if self.workers > 1 and self.page_address.endswith(":0"):
            raise ValueError("--page-address with a free port would be another one of each worker: name the port")
        if self.workers > 1 and self.test_clock:
            raise ValueError("--test-clock sets the time of one process: it needs --workers 1")
        return self

    @property
    def store_kind(self) -> Store:
        """The store to use, with `auto` decided."""
        if self.store is not Store.AUTO:
            return self.store
        return Store.REDIS if self.redis_url else Store.EMBEDDED

    @property
    def store_timeout_s(self) -> float:
        """`store_timeout_ms` in seconds."""
        return self.store_timeout_ms / 1000

    @property
    def sweep_interval_s(self) -> float:
        """`sweep_interval_ms` in seconds."""
        return self.sweep_interval_ms / 1000


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `host:port`; a name other than localhost is taken as reachable."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] = ()) -> None:
    """Gives the parser a flag for each named setting, by default all, with its default and its variable."""
    for name, field in Settings.model_fields.items():
        if names and name not in names:
            continue
        note = f"{field.description} (default {_shown(field)}; {_variable(name)})".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(_flag(name), dest=name, action=argparse.BooleanOptionalAction, help=note)
        else:
            parser.add_argument(_flag(name), dest=name, metavar=_metavar(name), help=note)


def from_flags(flags: Mapping[str, Any]) -> Settings:
    """The settings from parsed flags (None: not given) and the environment.

    Raises SettingsError naming each flag or variable that cannot be read.
    """
    given = {name: value for name, value in flags.items() if name in Settings.model_fields and value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [_line(found, given) for found in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from error


def _line(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    said = str(found["msg"]).removeprefix("Value error, ")
    if not found["loc"]:
        return said
    name = str(found["loc"][0])
    named = _flag(name) if name in given else _variable(name)
    return f"{named}={found['input']!s}: {said}"


def _shown(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, tuple):
        return os.pathsep.join(map(str, default))
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in {None, ""} else str(default)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(name: str) -> str:
    return name.rpartition("_")[2].upper()


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()
