"""Set-up: an account with its opening balances for every tenant of the run, and for the one that no load touches."""

from collections.abc import Callable, Iterable
from typing import Final

import grpc
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import admin_service_pb2_grpc

from loadtest.callers import CallFailed
from loadtest.crowd import each
from loadtest.mix import Accounts
from loadtest.plan import LoadPlan

_TIMEOUT_S: Final = 10.0


async def create(
    plan: LoadPlan, accounts: Accounts, channel: grpc.aio.Channel, on_progress: Callable[[int], None]
) -> None:
    """Creates the accounts; tells how many there are so far. Raises CallFailed."""
    stub = admin_service_pb2_grpc.AdminServiceStub(channel)

    async def put(tenant: str) -> None:
        request = admin.PutAccountRequest(
            policy=plan.mix.policy,
            tenant=tenant,
            account=admin.Account(
                plan=accounts.plan,
                flags=accounts.flags,
                overrides=[admin.Override(limit_id=limit, value=value) for limit, value in accounts.overrides.items()],
            ),
            opening=accounts.opening,
        )
        try:
            await stub.PutAccount(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or "") from error

    await each(put, _names(plan), on_progress)


def _names(plan: LoadPlan) -> Iterable[str]:
    yield plan.probe
    for number in range(plan.tenants):
        yield plan.tenant(number)
