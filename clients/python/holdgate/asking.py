"""What a caller says: where the server is, what is asked for, and what to do when nobody answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

import grpc
from quota.v1 import quota_service_pb2 as quota


class Posture(StrEnum):
    """What a hold does when the server cannot be reached in time."""

    CLOSED = "closed"
    """It raises QuotaAway: nothing goes ahead without an answer. Right wherever money is spent."""

    OPEN = "open"
    """It lets the work go ahead, unaccounted; `hold.degraded` says so."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the server's authorities, and the certificate and key to show where it asks for one."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What a channel is opened with."""
        key, chain = (path.read_bytes() if path else None for path in (self.key, self.certificate))
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request for a decision; amounts are whole numbers of the meters' base units.

    `request_id` names it in every retry, and becomes the hold's id; left empty, one is made up. Where a pool
    with a queue has no place, it waits in line for up to `wait_s` seconds; with 0 it is refused at once.
    """

    tenant: str
    action: str
    amounts: Mapping[str, int] = field(default_factory=dict)
    scope: Mapping[str, str] = field(default_factory=dict)
    items: tuple[quota.Item, ...] = ()
    request_id: str = field(default_factory=lambda: uuid4().hex)
    wait_s: float = 0

    def message(self, policy: str) -> quota.CheckAndReserveRequest:
        """The request as it is sent."""
        return quota.CheckAndReserveRequest(
            policy=policy,
            tenant=self.tenant,
            request_id=self.request_id,
            action=self.action,
            scope=self.scope,
            amounts=self.amounts,
            items=self.items,
            wait=self.wait_s > 0,
        )
