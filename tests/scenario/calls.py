"""The short form of a call as its protobuf message: field names are those of the protos."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import operators_pb2 as operators
from quota.v1 import quota_service_pb2 as quota

from tests.scenario.quantities import number
from tests.scenario.reading import Value

QUOTA: Final = "QuotaService"
ADMIN: Final = "AdminService"

ACCOUNT_FIELDS: Final = frozenset(admin.Account.DESCRIPTOR.fields_by_name)
REPETITION: Final = re.compile(r"\{n(?:%([1-9][0-9]*))?\}")
"""The number of a repetition, or what is left of it by so many."""

INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}


class Verb(NamedTuple):
    """What a step's word calls. `id_field` is the field that `id` stands for."""

    service: str
    method: str
    request: type[Message]
    id_field: str = ""


VERBS: Final[Mapping[str, Verb]] = {
    "reserve": Verb(QUOTA, "CheckAndReserve", quota.CheckAndReserveRequest, "request_id"),
    "settle": Verb(QUOTA, "Settle", quota.SettleRequest, "hold_id"),
    "release": Verb(QUOTA, "Release", quota.ReleaseRequest, "hold_id"),
    "release_allocation": Verb(QUOTA, "ReleaseAllocation", quota.ReleaseAllocationRequest, "allocation"),
    "extend": Verb(QUOTA, "Extend", quota.ExtendRequest, "hold_id"),
    "estimate": Verb(QUOTA, "Estimate", quota.EstimateRequest),
    "usage": Verb(QUOTA, "GetUsage", quota.GetUsageRequest),
    "limits": Verb(QUOTA, "GetLimits", quota.GetLimitsRequest),
    "put_account": Verb(ADMIN, "PutAccount", admin.PutAccountRequest),
    "get_account": Verb(ADMIN, "GetAccount", admin.GetAccountRequest),
    "purchase": Verb(ADMIN, "RecordPurchase", admin.RecordPurchaseRequest, "purchase_id"),
    "grant": Verb(ADMIN, "CreateGrant", admin.CreateGrantRequest, "grant_id"),
    "refund": Verb(ADMIN, "RefundPurchase", admin.RefundPurchaseRequest, "refund_id"),
    "balances": Verb(ADMIN, "GetBalances", admin.GetBalancesRequest),
    "ledger": Verb(ADMIN, "ListLedger", admin.ListLedgerRequest),
    "trim_ledger": Verb(ADMIN, "TrimLedger", admin.TrimLedgerRequest),
    "reconcile": Verb(ADMIN, "ReconcileBalances", admin.ReconcileBalancesRequest),
    "import": Verb(ADMIN, "ImportBalances", admin.ImportBalancesRequest),
    "record": Verb(ADMIN, "RecordUsage", admin.RecordUsageRequest),
    "get_hold": Verb(ADMIN, "GetHold", admin.GetHoldRequest, "hold_id"),
    "list_holds": Verb(ADMIN, "ListHolds", admin.ListHoldsRequest),
    "notifications": Verb(ADMIN, "ListNotifications", admin.ListNotificationsRequest),
    "force_release": Verb(ADMIN, "ForceRelease", admin.ForceReleaseRequest, "hold_id"),
    "reset": Verb(ADMIN, "ResetLimit", operators.ResetLimitRequest, "reset_id"),
    "adjust": Verb(ADMIN, "AdjustLimit", operators.AdjustLimitRequest, "adjustment_id"),
    "delete": Verb(ADMIN, "DeleteTenant", operators.DeleteTenantRequest),
    "audit": Verb(ADMIN, "ListAudit", operators.ListAuditRequest),
    "reload": Verb(ADMIN, "ReloadPolicy", admin.ReloadPolicyRequest),
}

READS: Final = frozenset(
    {
        *("estimate", "usage", "limits", "get_account", "get_hold", "list_holds", "notifications"),
        *("balances", "ledger", "reconcile", "audit"),
    }
)
"""Words that never change anything."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as written, and the fields that it has when it does not name them."""

    word: str
    fields: Value
    defaults: Mapping[str, Value]
    t0_ms: int

    @property
    def verb(self) -> Verb:
        return VERBS[self.word]

    def message(self, n: int = 1) -> Message:
        """The request; `{n}` in a text is the number of the repetition, `{n%10}` its last digit."""
        verb = self.verb
        fields = dict(self.fields.mapping(self.word))
        if "id" in fields and verb.id_field:
            fields[verb.id_field] = fields.pop("id")
        known = verb.request.DESCRIPTOR.fields_by_name
        # What a settle or an operator's act names is compared, or is its target, and not chosen.
        chosen = set(known) - ({"scope"} if self.word in {"settle", "reset", "adjust"} else set())
        fields = {name: value for name, value in self.defaults.items() if name in chosen} | fields
        message = verb.request()
        _Filler(self.t0_ms, n).fill(message, _spelt_out(self.word, fields, self.fields, self.t0_ms))
        return message


def _spelt_out(word: str, fields: dict[str, Value], call: Value, t0_ms: int) -> dict[str, Value]:
    """The fields without abbreviations."""
    match word:
        case "put_account":
            record = {name: fields.pop(name) for name in ACCOUNT_FIELDS & fields.keys()}
            return fields | ({"account": call.made(record)} if record else {})
        case "settle":
            return {name: _delivered(name, value) for name, value in fields.items()}
        case "reserve" | "estimate" if "items" in fields:
            items = [item for entry in fields["items"].items("items") for item in _repeated(entry)]
            return fields | {"items": fields["items"].made(list(items))}
        case "record":
            samples = [one for entry in fields["samples"].items("samples") for one in _series(entry, t0_ms)]
            return fields | {"samples": fields["samples"].made(list(samples))}
    return fields


def _series(sample: Value, t0_ms: int) -> Iterator[Value]:
    """A sample, or as many as its `times` says; what stands in `rise` grows by so much from one to the next."""
    fields = dict(sample.mapping("sample"))
    times = fields.pop("times", sample.made(1)).whole("times")
    rise = fields.pop("rise", sample.made({})).mapping("rise")
    for n in range(times):
        grown = {
            name: sample.made(_units(fields.get(name, sample.made(0)), t0_ms) + n * _units(by, t0_ms))
            for name, by in rise.items()
        }
        yield sample.made(fields | grown)


def _units(value: Value, t0_ms: int) -> int:
    return number(value.data, t0_ms) if isinstance(value.data, str) else value.whole("a number")


def _delivered(name: str, value: Value) -> Value:
    """`2/3`, `{credits: 4}` and `[clip-1]` as the messages of a Settle."""
    match name, value.data:
        case "fraction", str(share):
            delivered, slash, reserved = share.partition("/")
            if not slash:
                raise value.error(f"a fraction is written delivered/reserved, not {share!r}")
            parts = {"delivered": delivered, "reserved": reserved}
            return value.made({part: value.made(_integer(value, digits)) for part, digits in parts.items()})
        case "items", list():
            return value.made({"ids": value})
        case "usage", dict():
            return value.made({"used": value})
    return value


def _integer(value: Value, digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise value.error(f"{digits!r} is no whole number") from error


def _repeated(item: Value) -> Iterator[Value]:
    """An item, or as many as its `times` says, with `-1`, `-2`, … behind their id, which is the product's name
    unless given.
    """
    fields = dict(item.mapping("item"))
    times = fields.pop("times", None)
    if "id" not in fields and "product" in fields:
        fields["id"] = fields["product"]
    if times is None:
        yield item.made(fields)
        return
    for n in range(1, times.whole("times") + 1):
        yield item.made(fields | {"id": item.made(f"{fields['id'].plain()}-{n}")})


class _Filler:
    """Writes values into a message, by the message's own description."""

    def __init__(self, t0_ms: int, n: int) -> None:
        self._t0_ms = t0_ms
        self._n = n

    def fill(self, message: Message, fields: Mapping[str, Value]) -> None:
        known = fields_of(message)
        for name, value in fields.items():
            field = known.get(name)
            if field is None:
                raise value.error(f"{message.DESCRIPTOR.name} has no field {name!r}; it has: {', '.join(known)}")
            try:
                self._set(message, field, value)
            except (TypeError, ValueError) as error:
                raise value.error(f"{name}: {error}") from error

    def _set(self, message: Message, field: FieldDescriptor, value: Value) -> None:
        target: Any = getattr(message, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            of = fields_of(target.GetEntryClass()())["value"]
            for key, each in value.mapping(field.name).items():
                target[self._text(key)] = self._scalar(of, each)
        elif field.is_repeated and entry is not None:
            for each in value.items(field.name):
                self.fill(target.add(), each.mapping(field.name))
        elif field.is_repeated:
            target.extend(self._scalar(field, each) for each in value.items(field.name))
        elif entry is not None:
            target.SetInParent()
            self.fill(target, value.mapping(field.name))
        else:
            setattr(message, field.name, self._scalar(field, value))

    def _scalar(self, field: FieldDescriptor, value: Value) -> str | int | bool:
        data = value.data
        if field.enum_type is not None:
            return _enum_number(field, value)
        if field.cpp_type in INTEGERS:
            return number(data, self._t0_ms) if isinstance(data, str) else value.whole(field.name)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if not isinstance(data, bool):
                raise value.error(f"{field.name} must be true or false, not {data!r}")
            return data
        return self._text(value.text(field.name))

    def _text(self, text: str) -> str:
        return REPETITION.sub(lambda found: str(self._n % int(found[1]) if found[1] else self._n), text)


def _enum_number(field: FieldDescriptor, value: Value) -> int:
    """The number of `CHECK_ONLY` for `MODE_CHECK_ONLY`, or a number that the enum may lack."""
    if isinstance(value.data, int):
        return value.whole(field.name)
    numbers = {name: number for number, name in enum_names(field).items()}
    name = value.text(field.name)
    if name not in numbers:
        raise value.error(f"{field.name} is one of {', '.join(numbers)}, not {name!r}")
    return numbers[name]


def enum_names(field: FieldDescriptor) -> Mapping[int, str]:
    """The values of a field's enum, without the enum's own name in front."""
    enum = field.enum_type
    assert enum is not None
    prefix = re.sub("(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
    return {value.number: value.name.removeprefix(f"{prefix}_") for value in enum.values}


def fields_of(message: Message) -> Mapping[str, FieldDescriptor]:
    """A message's fields by name; the stubs know two classes of descriptors, of which one is at work."""
    return cast("Mapping[str, FieldDescriptor]", message.DESCRIPTOR.fields_by_name)
