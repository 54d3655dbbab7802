"""What callers ask for, validated against the policy. Bad input raises before anything is looked at."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from server.domain.errors import FieldViolation, InvalidRequestError
from server.domain.policy import ACTION, Policy, Product
from server.domain.units import MAX_AMOUNT, MAX_ID_BYTES, MAX_ITEMS, MAX_METERS, MAX_SCOPE

_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_NOWHERE: Final[Mapping[str, str]] = MappingProxyType({})


class TenantRef(NamedTuple):
    """Whose state an operation touches: the unit of atomicity."""

    policy: str
    tenant: str


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be produced: `quantity` names one meter that measures the product. Reused ones are free."""

    id: str
    product: str
    quantity: Mapping[str, int]
    reused: bool = False


class Flexible(NamedTuple):
    """A meter of which fewer units will do, but no fewer than `minimum`. `fingerprint` is that of the request with all
    that was asked for, once it is known; empty before.
    """

    meter: str
    minimum: int
    fingerprint: bytes = b""


class Operation(NamedTuple):
    """A request for a decision, as the caller put it. `request_id` is empty when the caller named none."""

    ref: TenantRef
    action: str
    request_id: str = ""
    scope: Mapping[str, str] = _NOWHERE
    amounts: Mapping[str, int] = _NOTHING
    items: tuple[Item, ...] = ()
    check_only: bool = False
    flexible: Flexible | None = None

    def of(self, ref: TenantRef) -> "Operation":
        """The same request for a tenant whose policy has been resolved."""
        return self if ref == self.ref else self._replace(ref=ref)

    def validate(self, policy: Policy) -> None:
        """Raises InvalidRequestError naming every field that the policy or the bounds do not allow."""
        bad: list[FieldViolation] = []
        bad += text_violations("tenant", self.ref.tenant, required=True)
        bad += text_violations("request_id", self.request_id)
        if self.action not in policy.actions:
            bad.append(unknown("action", self.action, policy.name, "action", policy.actions))
        bad += scope_violations(self.scope, policy)
        if policy.catalog is not None:
            bad += policy.catalog.violations(self.action, self.scope)
        bad += amount_violations("amounts", self.amounts, policy)
        bad += self._item_violations(policy)
        action = policy.actions.get(self.action)
        if action is not None and action.priced and not (self.items or self.amounts):
            text = f"is empty; {self.action} must name what it produces, as items or amounts"
            bad.append(FieldViolation("items", text))
        if bad:
            raise InvalidRequestError(bad)

    def validate_values(self, policy: Policy) -> None:
        """Validates a request without items that differs from a valid one in its id and in units alone."""
        units = self.amounts.values()
        bad = units and not 0 <= min(units) <= max(units) <= MAX_AMOUNT
        if bad or text_violations("request_id", self.request_id):
            self.validate(policy)

    def _item_violations(self, policy: Policy) -> list[FieldViolation]:
        bad: list[FieldViolation] = []
        if len(self.items) > MAX_ITEMS:
            bad.append(FieldViolation("items", f"has {len(self.items)} entries; at most {MAX_ITEMS} are allowed"))
            return bad
        seen: set[str] = set()
        for index, item in enumerate(self.items):
            at = f"items[{index}]"
            bad += text_violations(f"{at}.id", item.id, required=True)
            if item.id in seen:
                bad.append(FieldViolation(f"{at}.id", f"{item.id!r} is named twice; item ids are unique in a request"))
            seen.add(item.id)
            product = policy.products.get(item.product)
            if product is None:
                bad.append(unknown(f"{at}.product", item.product, policy.name, "price for", policy.products))
                continue
            bad += self._price_violations(at, product)
            measured = [meter for meter in item.quantity if meter in product.block]
            if len(item.quantity) != 1 or not measured:
                expected = " or ".join(sorted(product.block))
                bad.append(FieldViolation(f"{at}.quantity", f"must name exactly one meter: {expected}"))
                continue
            bad += amount_violations(f"{at}.quantity", item.quantity, policy)
            if item.quantity[measured[0]] == 0:
                bad.append(FieldViolation(f"{at}.quantity[{measured[0]}]", "is 0; an item is something, so at least 1"))
        return bad

    def _price_violations(self, at: str, product: Product) -> list[FieldViolation]:
        """Why an item has no price, where it has none: what is not listed is refused, never free."""
        if product.charge_for(self.action, self.scope) is not None:
            return []
        prices = f"{product.name} has prices by {product.by}: {', '.join(sorted(product.charges))}"
        if product.by == ACTION:
            return [FieldViolation(f"{at}.product", f"has no price for {self.action!r}; {prices}")]
        if product.by not in self.scope:
            return [FieldViolation(f"scope[{product.by}]", f"is required: {prices}")]
        return [FieldViolation(f"{at}.product", f"has no price at {product.by} {self.scope[product.by]!r}; {prices}")]

    def fingerprint(self) -> bytes:
        """Four digests of 4 bytes: action, scope, amounts (and items), mode. Equal content, equal bytes."""
        if self.flexible is not None and self.flexible.fingerprint:
            return self.flexible.fingerprint
        items = sorted((item.id, item.product, item.reused, *sorted(item.quantity.items())) for item in self.items)
        names = tuple(sorted(self.amounts))
        units = tuple(self.amounts[name] for name in names)
        return (
            request_digest(self.action, self.scope)
            + amounts_digest(names, units, items)
            + (_digest(self.check_only or self.flexible).to_bytes(4, "big") if self.has_mode else TAKING)
        )

    @property
    def has_mode(self) -> bool:
        """Whether it is anything but all or nothing."""
        return self.check_only or self.flexible is not None


def _digest(content: object) -> int:
    return zlib.crc32(repr(content).encode())


def request_digest(action: str, scope: Mapping[str, str]) -> bytes:
    """The digests of an action and of dimensions."""
    return _digest(action).to_bytes(4, "big") + _digest(sorted(scope.items())).to_bytes(4, "big")


def amounts_digest(names: Sequence[str], units: Sequence[int], items: Sequence[object] = ()) -> bytes:
    """The digest of amounts, by sorted names, and of items."""
    return _digest((names, units, items) if items else (names, units)).to_bytes(4, "big")


TAKING: Final = _digest(content=False).to_bytes(4, "big")
"""The digest of the mode of a request that takes what it asks for."""

FINGERPRINT_PARTS: Final = ("action", "scope", "amounts", "mode")


def differing_parts(stored: bytes, asked: bytes) -> list[str]:
    """Names of the parts in which two fingerprints differ."""
    return [
        name
        for index, name in enumerate(FINGERPRINT_PARTS)
        if stored[4 * index : 4 * index + 4] != asked[4 * index : 4 * index + 4]
    ]


def text_violations(field_name: str, value: str, *, required: bool = False) -> list[FieldViolation]:
    """What is wrong with an id or name: empty, too long, or with control characters."""
    if not value:
        return [FieldViolation(field_name, "must not be empty")] if required else []
    if len(value) <= MAX_ID_BYTES and value.isascii() and value.isprintable():
        return []
    size = len(value.encode())
    if size > MAX_ID_BYTES:
        return [FieldViolation(field_name, f"has {size} bytes; at most {MAX_ID_BYTES} are allowed")]
    if not value.isprintable():
        return [FieldViolation(field_name, "must not hold control characters")]
    return []


def unknown(
    field_name: str, value: str, policy: str, what: str, known: Mapping[str, object] | frozenset[str]
) -> FieldViolation:
    """The violation for a name that the policy lacks, listing those that it has."""
    names = ", ".join(sorted(known)) or "none"
    return FieldViolation(field_name, f"policy {policy!r} has no {what} {value!r}; it has: {names}")


def scope_violations(scope: Mapping[str, str], policy: Policy) -> list[FieldViolation]:
    """What is wrong with a request's dimensions, by their names: a map's own order is the caller's library's."""
    if len(scope) > MAX_SCOPE:
        return [FieldViolation("scope", f"has {len(scope)} entries; at most {MAX_SCOPE} are allowed")]
    bad: list[FieldViolation] = []
    for name, value in scope.items():
        if name not in policy.dimensions:
            bad.append(unknown(f"scope[{name}]", name, policy.name, "dimension", policy.dimensions))
        else:
            bad += text_violations(f"scope[{name}]", value, required=True)
            if (known := policy.known_values.get(name)) is not None and value not in known:
                bad.append(unknown(f"scope[{name}]", value, policy.name, name, known))
    return sorted(bad)


def amount_violations(field_name: str, amounts: Mapping[str, int], policy: Policy) -> list[FieldViolation]:
    """What is wrong with amounts, by the names of their meters."""
    if len(amounts) > MAX_METERS:
        return [FieldViolation(field_name, f"has {len(amounts)} entries; at most {MAX_METERS} are allowed")]
    bad: list[FieldViolation] = []
    for meter, amount in amounts.items():
        if meter not in policy.meters:
            bad.append(unknown(f"{field_name}[{meter}]", meter, policy.name, "meter", policy.meters))
        elif not 0 <= amount <= MAX_AMOUNT:
            bad.append(FieldViolation(f"{field_name}[{meter}]", f"is {amount}; must be from 0 to 2^53 - 1"))
    return sorted(bad)
