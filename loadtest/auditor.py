"""Reads the tenants' figures from the server and has them compared."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Final

import grpc
from quota.v1 import quota_service_pb2 as quota
from quota.v1 import quota_service_pb2_grpc

from loadtest.audit import Audit, Cell, Checked, Reading, check_tenant
from loadtest.callers import CallFailed
from loadtest.crowd import each
from loadtest.ledger import Scope, Tally
from loadtest.plan import LoadPlan

_TIMEOUT_S: Final = 5.0
_TRIES: Final = 5
_FIRST_PAUSE_S: Final = 0.2
_LOOKS: Final = 20
"""How often a tenant is read whose leases are ending just then, in the hope of an instant without any."""
_LOOK_AGAIN_S: Final = 0.11


class Auditor:
    """Audits one run; `tallies` are all callers' books by tenant's number, `unknown` the tenants left out."""

    def __init__(
        self, plan: LoadPlan, channel: grpc.aio.Channel, tallies: Mapping[int, Sequence[Tally]], unknown: Sequence[int]
    ) -> None:
        self._plan = plan
        self._get_usage = quota_service_pb2_grpc.QuotaServiceStub(channel).GetUsage
        self._tallies = tallies
        self._unknown = unknown
        self._opening: dict[Cell, Reading] = {}

    async def run(self, on_progress: Callable[[int], None]) -> Audit:
        """Reads and compares every tenant that the load touched; a server that does not answer makes it a failure."""
        left_out = set(self._unknown)
        audit = Audit(unknown=len(self._unknown), left_out=len(left_out))

        async def check(number: int) -> None:
            audit.add(await self._checked(number))

        try:
            await self._read_opening()
            await each(check, [number for number in sorted(self._tallies) if number not in left_out], on_progress)
        except CallFailed as failure:
            audit.failure = f"GetUsage: {failure}"
        audit.findings.sort(key=lambda finding: -finding.off)
        return audit

    async def _read_opening(self) -> None:
        """What every tenant began with: the figures of the one that no load touched, and what set-up gave."""
        scopes = {tally.scope for tallies in self._tallies.values() for tally in tallies}
        self._opening = await self._read(self._plan.probe, scopes)
        given = self._plan.mix.accounts.opening if self._plan.set_up and self._plan.mix.accounts else {}
        for cell, reading in self._opening.items():
            if reading.meter in given:
                self._opening[cell] = reading._replace(limit=given[reading.meter])

    async def _checked(self, number: int) -> Checked:
        tenant, tallies = self._plan.tenant(number), self._tallies[number]
        scopes = {tally.scope for tally in tallies}
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(_LOOK_AGAIN_S)
            readings = await self._read(tenant, scopes)
            checked = check_tenant(tenant, tallies, self._opening, readings, unaudited=self._plan.unaudited)
            if not checked.uncertain:
                break
        return checked

    async def _read(self, tenant: str, scopes: Iterable[Scope]) -> dict[Cell, Reading]:
        readings: dict[Cell, Reading] = {}
        for scope in scopes:
            request = quota.GetUsageRequest(policy=self._plan.mix.policy, tenant=tenant, scope=dict(scope))
            asked_s = monotonic()
            response = await self._usage(request)
            answered_s = monotonic()
            for status in response.limits:
                if not status.shadow:
                    cell = Cell(status.id, tuple(sorted(status.scope.items())))
                    readings[cell] = Reading(
                        status.kind, status.meter, status.limit, status.used, status.held, asked_s, answered_s
                    )
        return readings

    async def _usage(self, request: quota.GetUsageRequest) -> quota.GetUsageResponse:
        left, pause_s = _TRIES, _FIRST_PAUSE_S
        while True:
            try:
                return await self._get_usage(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                left -= 1
                failure = CallFailed(error.code(), error.details() or "")
                if not (left and failure.unknown):
                    raise failure from error
            await asyncio.sleep(pause_s)
            pause_s *= 2
