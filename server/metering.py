"""The use case of metering: samples of use become use of quotas, each sample once and each as if it came alone."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

from server.domain.account import Account
from server.domain.errors import (
    AccountChangedError,
    FieldViolation,
    HoldgateError,
    IdReusedError,
    InvalidRequestError,
    StoreUnavailableError,
)
from server.domain.limit_value import value_of
from server.domain.limits.quota import Quota
from server.domain.operation import TenantRef, scope_violations, unknown
from server.domain.plan import account_or_default, bare_form
from server.domain.policy import Meter, Policy
from server.domain.sampling import (
    FIXED_MS,
    LATE_MS,
    MOST_ENTRIES,
    Entry,
    Outcome,
    Sample,
    entry_of,
    late_violation,
    slot_start_ms,
)
from server.engine.base import Engine
from server.engine.books import Booked, Booking, Target
from server.gate import PLANNING_ROUNDS, QuotaGate

MAX_SAMPLES: Final = 10_000
"""Most samples of one call."""

SAMPLES_AT_ONCE: Final = 250
"""Samples that one step of the store books: others of its tenants wait meanwhile."""

TENANTS_AT_ONCE: Final = 64
"""Tenants of one call that are worked on together."""

SLACK_MS: Final = 86_400_000
"""How much longer than it is needed a record of samples is kept: clocks may step."""

Result: TypeAlias = Outcome | HoldgateError
"""What became of a sample, or why it was not taken."""


class Placed(NamedTuple):
    """A sample where it is kept, and what it counts in."""

    place: int
    sample: Sample
    entry: Entry
    targets: tuple[Target, ...]
    until_ms: int


class Metering:
    """One per process, beside the gate."""

    def __init__(self, engine: Engine, gate: QuotaGate) -> None:
        self._engine = engine
        self._gate = gate

    async def record(self, policy_name: str, samples: Sequence[tuple[str, Sample]], *, within_s: float) -> list[Result]:
        """Books samples, each with its tenant; what became of each, in their order."""
        if len(samples) > MAX_SAMPLES:
            text = f"has {len(samples)} entries; at most {MAX_SAMPLES} are allowed"
            raise InvalidRequestError.of("samples", text)
        policy = self._gate.policy(policy_name)
        self._gate.must_trust()
        ends_at_s = monotonic() + within_s
        by_tenant: dict[str, list[tuple[int, Sample]]] = {}
        for index, (tenant, sample) in enumerate(samples):
            by_tenant.setdefault(tenant, []).append((index, sample))
        places = asyncio.Semaphore(TENANTS_AT_ONCE)
        results: dict[int, Result] = {}

        async def work(tenant: str, own: Sequence[tuple[int, Sample]]) -> None:
            async with places:
                results.update(await self._of_tenant(policy, tenant, own, ends_at_s))

        await asyncio.gather(*(work(tenant, own) for tenant, own in by_tenant.items()))
        return [results[index] for index in range(len(samples))]

    async def _of_tenant(
        self, policy: Policy, tenant: str, samples: Sequence[tuple[int, Sample]], ends_at_s: float
    ) -> dict[int, Result]:
        """A tenant's results; what goes wrong with a step goes wrong with all samples of that step."""
        try:
            _, ref = self._gate.resolve(TenantRef(policy.name, tenant))
        except HoldgateError as error:  # no tenant's name, or one that the caller may not ask about
            return {index: error for index, _ in samples}
        results: dict[int, Result] = {}
        for start in range(0, len(samples), SAMPLES_AT_ONCE):
            step = samples[start : start + SAMPLES_AT_ONCE]
            try:
                results |= await self._booked(policy, ref, step, ends_at_s)
            except HoldgateError as error:
                results |= {index: error for index, _ in step}
        return results

    async def _booked(
        self, policy: Policy, ref: TenantRef, step: Sequence[tuple[int, Sample]], ends_at_s: float
    ) -> dict[int, Result]:
        """Places samples for the account as it is, and again where that moved on, until they are booked."""
        found = await self._engine.find(ref, "", _left_s(ends_at_s))
        account, now_ms = found.account, found.now_ms
        for _ in range(PLANNING_ROUNDS):
            placing = _Placing(policy, account_or_default(policy, ref, account, now_ms), now_ms)
            results: dict[int, Result] = {}
            placed: list[Placed] = []
            for index, sample in step:
                try:
                    placed.append(placing.place(index, sample))
                except HoldgateError as error:
                    results[index] = error
            if not placed:
                return results
            booking = placing.booking(placed)
            answer = await self._engine.books.record(ref, booking, _left_s(ends_at_s))
            if isinstance(answer, Booked):
                pairs = zip(placed, answer.outcomes, strict=True)
                return results | {one.place: _result(one.sample, outcome) for one, outcome in pairs}
            account, now_ms = answer.account, answer.now_ms
        raise AccountChangedError(f"account {ref.tenant!r} changed {PLANNING_ROUNDS} times meanwhile; send them again")


class _Placing:
    """Places samples for an account at a time; what samples of one meter and scope share is worked out once."""

    def __init__(self, policy: Policy, account: Account, now_ms: int) -> None:
        self._policy = policy
        self._account = account
        self._now_ms = now_ms
        self._quotas = [limit for limit in policy.limits if isinstance(limit, Quota)]
        self._targets: dict[tuple[object, ...], tuple[Target, ...]] = {}
        self._fine_scopes: set[tuple[tuple[str, str], ...]] = set()

    def place(self, place: int, sample: Sample) -> Placed:
        """Where a sample is kept, and what it counts in; raises InvalidRequestError."""
        meter = self._meter(sample)
        assert meter.sampling is not None  # noqa: S101  # as looked up
        entry = entry_of(meter.sampling, sample, self._now_ms)
        targets = self._targets_of(sample, slot_start_ms(meter.sampling, sample))
        ends_ms = [target.check.terms.end_ms for target in targets if target.check.terms is not None]
        if late := late_violation(min(ends_ms), self._now_ms):
            raise InvalidRequestError([late])
        until_ms = self._now_ms + 2 * FIXED_MS if entry.page.fixed else max(ends_ms) + LATE_MS
        return Placed(place, sample, entry, targets, until_ms + SLACK_MS)

    def booking(self, placed: Sequence[Placed]) -> Booking:
        """What the engine is to do."""
        targets: dict[tuple[object, ...], Target] = {}
        for one in placed:
            targets |= {_cell(target): target for target in one.targets}
        numbers = {cell: number for number, cell in enumerate(targets)}
        entries = [(one.entry, tuple([numbers[_cell(each)] for each in one.targets]), one.until_ms) for one in placed]
        return Booking(self._account.version, tuple(targets.values()), tuple(entries))

    def _meter(self, sample: Sample) -> Meter:
        sampled = {name: meter for name, meter in self._policy.meters.items() if meter.sampling is not None}
        meter = sampled.get(sample.meter)
        if meter is None:
            raise InvalidRequestError([unknown("meter", sample.meter, self._policy.name, "sampled meter", sampled)])
        scope = tuple(sample.scope.items())
        if scope not in self._fine_scopes:
            if bad := scope_violations(sample.scope, self._policy):
                raise InvalidRequestError(bad)
            self._fine_scopes.add(scope)
        return meter

    def _targets_of(self, sample: Sample, at_ms: int) -> tuple[Target, ...]:
        key = (sample.meter, at_ms // SLACK_MS, *sample.scope.items())
        known = self._targets.get(key)
        if known is None or not all(_covers(target, at_ms) for target in known):
            known = self._targets[key] = tuple(
                [
                    self._target(quota, _values(quota, sample.scope), at_ms)
                    for quota in self._quotas
                    if quota.meter == sample.meter
                ]
            )
        if not known:
            raise InvalidRequestError.of("meter", f"no quota of policy {self._policy.name!r} counts {sample.meter!r}")
        return known

    def _target(self, quota: Quota, scope: tuple[str, ...], at_ms: int) -> Target:
        """A quota's cell in the cycle of an instant, with the terms of now."""
        terms = quota.terms(self._account, at_ms)
        value = value_of(quota, self._account, self._now_ms).value
        return Target(bare_form(quota, scope, value, terms), over=terms.end_ms <= self._now_ms)


def _cell(target: Target) -> tuple[object, ...]:
    """What tells one cell and cycle from another."""
    check = target.check
    return check.limit.cell, check.scope, check.terms


def _covers(target: Target, at_ms: int) -> bool:
    terms = target.check.terms
    return terms is not None and terms.start_ms <= at_ms < terms.end_ms


def _values(quota: Quota, scope: Mapping[str, str]) -> tuple[str, ...]:
    if missing := [name for name in quota.scope if name not in scope]:
        description = f"is required: quota {quota.id!r} is kept per {missing[0]}"
        raise InvalidRequestError.of(f"scope[{missing[0]}]", description)
    return tuple([scope[name] for name in quota.scope])


def _left_s(ends_at_s: float) -> float:
    left_s = ends_at_s - monotonic()
    if left_s <= 0:
        raise StoreUnavailableError("the store is slow: no time was left for all samples; send these again")
    return left_s


def _result(sample: Sample, outcome: Outcome) -> Result:
    """An outcome, or the error that it is for whoever sent the sample."""
    match outcome:
        case Outcome.REUSED:
            message = f"{sample.name} was recorded with another value; a correction needs a higher sequence or a new id"
            return IdReusedError(message, {"differs": "value"})
        case Outcome.TOO_LONG:
            text = f"is {sample.seconds}: all sizes of {sample.resource!r} would run longer than their slot lasts"
            return InvalidRequestError([FieldViolation("seconds", text)])
        case Outcome.TOO_MANY:
            text = f"would be one more than {MOST_ENTRIES} sizes of {sample.resource!r} in one slot"
            return InvalidRequestError([FieldViolation("size", text)])
        case Outcome.TOO_LARGE:
            return InvalidRequestError([FieldViolation("size", "would bring a quota's use above 2^53 - 1")])
    return outcome
