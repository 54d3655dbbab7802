"""What is sent to a webhook: a JSON body and the headers of Standard Webhooks, which sign it."""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import digest
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from server.domain.operation import TenantRef
from server.notices import Notification

PREFIX: Final = "whsec_"
SHORTEST_SECRET_BYTES: Final = 24
LONGEST_SECRET_BYTES: Final = 64

THRESHOLD_REACHED: Final = "quota.threshold_reached"
"""The type of a message about a quota's threshold."""

BALANCE_LOW: Final = "balance.threshold_reached"
"""The type of a message about a balance that has fallen to a threshold."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Message(NamedTuple):
    """One note for the endpoint. `message_id` is the same whenever and by whomever the note is sent."""

    message_id: str
    body: bytes


def message_of(ref: TenantRef, told: Notification) -> Message:
    """The message that tells a tenant's notification."""
    note = told.note
    identity = f"{ref.policy}\0{ref.tenant}\0{note.note_id}"
    figures = {
        "cycle_starts_at_ms": note.cycle_ms,
        "percent": note.percent,
        "limit": note.limit,
        "used": note.used,
    }
    content = {
        "type": THRESHOLD_REACHED if note.mark is None else BALANCE_LOW,
        "timestamp": (_EPOCH + timedelta(milliseconds=note.at_ms)).isoformat(timespec="milliseconds"),
        "data": {
            "policy": ref.policy,
            "tenant": ref.tenant,
            "id": note.note_id,
            "limit_id": told.limit_id,
            "scope": told.scope,
            **(figures if note.mark is None else {"threshold": note.mark, "left": note.left}),
        },
    }
    return Message(f"msg_{sha256(identity.encode()).hexdigest()[:32]}", orjson.dumps(content))


def headers_of(message: Message, secrets: Sequence[bytes], sent_at_s: int) -> Mapping[str, str]:
    """The headers of one attempt: a signature by each secret, so that a receiver may know the old or the new one."""
    signed = b".".join((message.message_id.encode(), str(sent_at_s).encode(), message.body))
    signatures = [f"v1,{b64encode(digest(secret, signed, 'sha256')).decode()}" for secret in secrets]
    return {
        "content-type": "application/json",
        "user-agent": "holdgate",
        "webhook-id": message.message_id,
        "webhook-timestamp": str(sent_at_s),
        "webhook-signature": " ".join(signatures),
    }


def read_secrets(path: Path) -> Sequence[bytes]:
    """The secrets of a file, one to a line; ValueError names the line that is none, never what stands there."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    found = [_secret(line.strip(), f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ValueError(f"{path} has no secret; make one with: echo {PREFIX}$(openssl rand -base64 32)")
    return found


def _secret(text: str, where: str) -> bytes:
    problem = (
        f"{where} is no secret; expected {PREFIX} and {SHORTEST_SECRET_BYTES} to {LONGEST_SECRET_BYTES} bytes in "
        f"base64, as from: echo {PREFIX}$(openssl rand -base64 32)"
    )
    if not text.startswith(PREFIX):
        raise ValueError(problem)
    try:
        secret = b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(problem) from None
    if not SHORTEST_SECRET_BYTES <= len(secret) <= LONGEST_SECRET_BYTES:
        raise ValueError(problem)
    return secret
