"""Answers and errors as plain data to compare with.

An answer is `Fields`: every field of its message is there, `ABSENT` where it is not set. What a message wraps
(`decision`, `account`, `hold`) stands at the top. Lists of limits, meters, products and holds are keyed by their id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from quota.v1 import admin_service_pb2, decision_pb2, operators_pb2

from tests.scenario.calls import enum_names, fields_of

DETAILS_KEY: Final = "grpc-status-details-bin"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
WRAPPED: Final = ("decision", "account", "hold")
KEYS: Final = (
    "entry_id",
    "index",
    "sequence",
    "what",
    "id",
    "limit_id",
    "meter",
    "product",
    "hold_id",
    "source",
    "tenant",
)


class Absent:
    """What is not there."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()


class Fields(dict[str, object]):
    """A message's fields: a name that is not among them does not exist."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Data that is compared in full: the JSON body that goes to the end user."""

    data: object


class Fault(Exception):
    """An error status with its details."""

    def __init__(self, status: StatusCode, message: str, details: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = Status.FromString(details)


class InProcessContext:
    """The context of a call without a transport or a deadline."""

    def time_remaining(self) -> None:
        """No deadline."""

    async def abort(
        self, code: StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> NoReturn:
        raise Fault(code, details, dict(trailing_metadata)[DETAILS_KEY])


def answer_fields(message: Message) -> Fields:
    """An answer, with `refused` (the code), `blocking` and `listed` (ids of limits) beside a decision's own fields, and
    `noted` (limit and percent) beside notifications, `untaken` (place, outcome or error) beside samples, and `acts` (a
    line each) beside the audit trail.
    """
    fields = _fields(message)
    for name in WRAPPED:
        if isinstance(inner := fields.get(name), Fields):
            del fields[name]
            fields.update(inner)
    limits = fields.get("limits")
    if "outcome" in fields and isinstance(limits, dict):
        refusal = fields["refusal"]
        fields["refused"] = refusal["code"] if isinstance(refusal, Fields) else ABSENT
        fields["blocking"] = [limit_id for limit_id, limit in limits.items() if limit["blocking"]]
    if isinstance(limits, dict):
        fields["listed"] = list(limits)
    if isinstance(message, admin_service_pb2.RecordUsageResponse):
        fields["untaken"] = [f"{other.index} {_why(other)}" for other in message.others]
    if isinstance(message, operators_pb2.ListAuditResponse):
        fields["acts"] = [_act(entry) for entry in message.entries]
    if isinstance(notes := fields.get("notifications"), dict):
        fields["noted"] = [_noted(note) for note in notes.values()]
        by_cycle: dict[str, list[str]] = {}
        for note in notes.values():
            by_cycle.setdefault(_date(note["cycle_starts_at_ms"]), []).append(_noted(note))
        fields["noted_by_cycle"] = Whole(by_cycle)
    return fields


def _act(entry: operators_pb2.AuditEntry) -> str:
    """What was done to what, from what to what, and why."""
    action = operators_pb2.AuditAction.Name(entry.action).removeprefix("AUDIT_ACTION_").lower()
    change = f"{entry.before or '-'} -> {entry.after or '-'}"
    return ", ".join(filter(None, (action, entry.tenant, entry.target, change, entry.reason)))


def _noted(note: Fields) -> str:
    if note["kind"] == "LOW_BALANCE":
        return f"{note['limit_id']} {note['left']} left, at {note['threshold']}"
    return f"{note['limit_id']} {note['percent']}%"


def _why(other: admin_service_pb2.SampleResult) -> str:
    if other.HasField("error"):
        return next(status.name for status in StatusCode if status.value[0] == other.error.code)
    return admin_service_pb2.SampleOutcome.Name(other.outcome).removeprefix("SAMPLE_OUTCOME_")


def fault_fields(fault: Fault) -> Fields:
    """An error: status, reason, message, the fields that it finds bad, and its metadata."""
    fields = Fields(error=fault.status.name, message=fault.message, violates=frozenset(), violations={})
    for detail in fault.details.details:
        info, bad = ErrorInfo(), BadRequest()
        if detail.Unpack(info):
            fields["reason"] = info.reason.removeprefix("ERROR_REASON_")
            fields.update(info.metadata)
        elif detail.Unpack(bad):
            fields["violates"] = frozenset(violation.field for violation in bad.field_violations)
            fields["violations"] = {violation.field: violation.description for violation in bad.field_violations}
    return fields


def _fields(message: Message) -> Fields:
    fields = Fields()
    for field in fields_of(message).values():
        if field.has_presence and not message.HasField(field.name):
            fields[field.name] = ABSENT
        else:
            fields[field.name] = _field(field, getattr(message, field.name))
    if message.DESCRIPTOR is decision_pb2.HttpAnswer.DESCRIPTOR:
        fields["body"] = Whole(orjson.loads(str(fields["body"]))) if fields["body"] else ABSENT
    return fields


def _field(field: FieldDescriptor, value: Any) -> object:  # noqa: ANN401  # a field's value is anything
    if (of := field.message_type) is not None:
        if of.GetOptions().map_entry:
            return dict(value)
        if field.is_repeated:
            return _keyed(_fields(each) for each in value)
        return json_format.MessageToDict(value) if of.full_name == "google.protobuf.Struct" else _fields(value)
    if field.is_repeated:
        return list(value)
    return enum_names(field)[value] if field.enum_type is not None else value


def _id_of(entry: Fields) -> object:
    return next(entry[name] for name in KEYS if name in entry)


def _date(at_ms: object) -> str:
    """The day of an instant, in UTC."""
    assert isinstance(at_ms, int)
    return f"{EPOCH + timedelta(milliseconds=at_ms):%Y-%m-%d}"


def _keyed(entries: Iterable[Fields]) -> Mapping[str, Fields]:
    keyed: dict[str, Fields] = {}
    for entry in entries:
        key = _date(entry["starts_at_ms"]) if "starts_at_ms" in entry else str(_id_of(entry))
        assert key not in keyed, f"{key} is listed twice"
        keyed[key] = entry
    return keyed
