"""The control plane: each method turns its message into domain values and asks the administration."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, TypeAlias

from grpc import aio
from quota.v1 import admin_service_pb2, admin_service_pb2_grpc, operators_pb2

from server.access import entry
from server.administration import Administration
from server.domain.act import Word
from server.domain.operation import TenantRef
from server.rpc import convert, convert_acts, convert_admin, convert_money, convert_samples, convert_usage
from server.rpc.calls import answering, streaming

_WithReason: TypeAlias = (
    admin_service_pb2.ReconcileBalancesRequest
    | admin_service_pb2.PutAccountRequest
    | admin_service_pb2.ForceReleaseRequest
    | operators_pb2.ResetLimitRequest
    | operators_pb2.AdjustLimitRequest
    | operators_pb2.DeleteTenantRequest
)

NAME: Final = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
"""The service's full name."""


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """Serves quota.v1.AdminService; no call waits longer than `store_timeout_s` seconds for the store."""

    name = NAME
    new_work = ()

    def __init__(self, administration: Administration, store_timeout_s: float) -> None:
        self._administration = administration
        self.store_timeout_s = store_timeout_s

    def add_to(self, server: aio.Server) -> None:
        """Registers itself."""
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self, server)

    @answering
    async def PutAccount(
        self, request: admin_service_pb2.PutAccountRequest, within_s: float
    ) -> admin_service_pb2.PutAccountResponse:
        """Creates or replaces an account."""
        account = await self._administration.put_account(
            TenantRef(request.policy, request.tenant),
            convert_admin.account(request),
            expected_version=convert_admin.expected_version(request),
            opening=dict(request.opening),
            word=_word(request),
            within_s=within_s,
        )
        return admin_service_pb2.PutAccountResponse(account=convert_admin.account_message(account))

    @answering
    async def GetAccount(
        self, request: admin_service_pb2.GetAccountRequest, within_s: float
    ) -> admin_service_pb2.GetAccountResponse:
        """Reads an account."""
        ref = TenantRef(request.policy, request.tenant)
        account = await self._administration.get_account(ref, within_s=within_s)
        return admin_service_pb2.GetAccountResponse(account=convert_admin.account_message(account))

    @answering
    async def RecordPurchase(
        self, request: admin_service_pb2.RecordPurchaseRequest, within_s: float
    ) -> admin_service_pb2.RecordPurchaseResponse:
        """Records money that came in."""
        account, applied = await self._administration.accounting.record_purchase(
            TenantRef(request.policy, request.tenant),
            request.purchase_id,
            request.face_value_usd_micros,
            dict(request.amounts),
            within_s=within_s,
        )
        return admin_service_pb2.RecordPurchaseResponse(account=convert_admin.account_message(account), applied=applied)

    @answering
    async def CreateGrant(
        self, request: admin_service_pb2.CreateGrantRequest, within_s: float
    ) -> admin_service_pb2.CreateGrantResponse:
        """Adds units to balances."""
        applied = await self._administration.accounting.create_grant(
            TenantRef(request.policy, request.tenant),
            request.grant_id,
            dict(request.amounts),
            expires_at_ms=convert_money.expiry(request),
            within_s=within_s,
        )
        return admin_service_pb2.CreateGrantResponse(applied=applied)

    @answering
    async def RefundPurchase(
        self, request: admin_service_pb2.RefundPurchaseRequest, within_s: float
    ) -> admin_service_pb2.RefundPurchaseResponse:
        """Takes back a purchase, or a part of it."""
        refund = await self._administration.accounting.refund_purchase(
            TenantRef(request.policy, request.tenant),
            request.refund_id,
            request.face_value_usd_micros,
            dict(request.amounts),
            within_s=within_s,
        )
        return admin_service_pb2.RefundPurchaseResponse(
            account=convert_admin.account_message(refund.account), applied=refund.applied, taken=refund.taken
        )

    @answering
    async def GetBalances(
        self, request: admin_service_pb2.GetBalancesRequest, within_s: float
    ) -> admin_service_pb2.GetBalancesResponse:
        """Reads balances with their grants."""
        ref = TenantRef(request.policy, request.tenant)
        balances = await self._administration.accounting.balances(ref, within_s=within_s)
        return admin_service_pb2.GetBalancesResponse(balances=convert_money.balance_messages(balances))

    @answering
    async def ListLedger(
        self, request: admin_service_pb2.ListLedgerRequest, within_s: float
    ) -> admin_service_pb2.ListLedgerResponse:
        """Lists movements of money, a page at a time."""
        ref, accounting = TenantRef(request.policy, request.tenant), self._administration.accounting
        entries, following = await accounting.ledger(ref, request.after_sequence, request.page_size, within_s=within_s)
        messages = convert_money.ledger_messages(entries, accounting.limit_ids(ref))
        return admin_service_pb2.ListLedgerResponse(entries=messages, next_after_sequence=following)

    @answering
    async def TrimLedger(
        self, request: admin_service_pb2.TrimLedgerRequest, within_s: float
    ) -> admin_service_pb2.TrimLedgerResponse:
        """Drops entries that are kept elsewhere."""
        ref = TenantRef(request.policy, request.tenant)
        dropped = await self._administration.accounting.trim(ref, request.through_sequence, within_s=within_s)
        return admin_service_pb2.TrimLedgerResponse(dropped=dropped)

    @answering
    async def ReconcileBalances(
        self, request: admin_service_pb2.ReconcileBalancesRequest, within_s: float
    ) -> admin_service_pb2.ReconcileBalancesResponse:
        """Reports what does not add up; repairs it only if told to."""
        ref, accounting = TenantRef(request.policy, request.tenant), self._administration.accounting
        found = await accounting.reconcile(ref, _word(request), repair=request.repair, within_s=within_s)
        return convert_money.reconciliation_message(found, accounting.limit_ids(ref))

    @answering
    async def ImportBalances(
        self, request: admin_service_pb2.ImportBalancesRequest, within_s: float
    ) -> admin_service_pb2.ImportBalancesResponse:
        """Brings in accounts, each row as if alone."""
        rows = convert_admin.import_rows(request)
        results = await self._administration.import_balances(rows, within_s=within_s)
        return admin_service_pb2.ImportBalancesResponse(results=convert_admin.import_results(results))

    @answering
    async def RecordUsage(
        self, request: admin_service_pb2.RecordUsageRequest, within_s: float
    ) -> admin_service_pb2.RecordUsageResponse:
        """Books samples of use, each as if alone."""
        metering = self._administration.metering
        results = await metering.record(request.policy, convert_samples.samples(request), within_s=within_s)
        return convert_samples.recorded(results)

    @answering
    async def GetHold(
        self, request: admin_service_pb2.GetHoldRequest, within_s: float
    ) -> admin_service_pb2.GetHoldResponse:
        """Reads one hold or tombstone."""
        ref = TenantRef(request.policy, request.tenant)
        view = await self._administration.get_hold(ref, request.hold_id, within_s=within_s)
        return admin_service_pb2.GetHoldResponse(hold=convert_admin.hold_message(view))

    @answering
    async def ListHolds(
        self, request: admin_service_pb2.ListHoldsRequest, within_s: float
    ) -> admin_service_pb2.ListHoldsResponse:
        """Lists a tenant's open holds, a page at a time."""
        views, next_page_token = await self._administration.list_holds(
            TenantRef(request.policy, request.tenant),
            request.page_size,
            request.page_token,
            within_s=within_s,
        )
        return admin_service_pb2.ListHoldsResponse(
            holds=[convert_admin.hold_message(view) for view in views], next_page_token=next_page_token
        )

    @answering
    async def ForceRelease(
        self, request: admin_service_pb2.ForceReleaseRequest, within_s: float
    ) -> admin_service_pb2.ForceReleaseResponse:
        """Releases a hold on an operator's word."""
        ref = TenantRef(request.policy, request.tenant)
        outcome = await self._administration.force_release(ref, request.hold_id, _word(request), within_s=within_s)
        return admin_service_pb2.ForceReleaseResponse(state=convert.HOLD_STATES[outcome.state], applied=outcome.applied)

    @answering
    async def ResetLimit(
        self, request: operators_pb2.ResetLimitRequest, within_s: float
    ) -> operators_pb2.ResetLimitResponse:
        """Forgets what a limit has counted."""
        done = await self._administration.operators.reset(
            TenantRef(request.policy, request.tenant),
            request.limit_id,
            dict(request.scope),
            reset_id=request.reset_id,
            word=_word(request),
            within_s=within_s,
        )
        return operators_pb2.ResetLimitResponse(applied=done.applied, cells=done.cells, before=done.before)

    @answering
    async def AdjustLimit(
        self, request: operators_pb2.AdjustLimitRequest, within_s: float
    ) -> operators_pb2.AdjustLimitResponse:
        """Changes a quota's use or a balance."""
        done = await self._administration.operators.adjust(
            TenantRef(request.policy, request.tenant),
            request.limit_id,
            dict(request.scope),
            convert_acts.change(request),
            adjustment_id=request.adjustment_id,
            word=_word(request),
            within_s=within_s,
        )
        return operators_pb2.AdjustLimitResponse(applied=done.applied, before=done.before, after=done.after)

    @answering
    async def DeleteTenant(
        self, request: operators_pb2.DeleteTenantRequest, within_s: float
    ) -> operators_pb2.DeleteTenantResponse:
        """Deletes a tenant, as far as this call comes."""
        ref = TenantRef(request.policy, request.tenant)
        done = await self._administration.operators.delete(
            ref, _word(request), force=request.force, page_token=request.page_token, within_s=within_s
        )
        return operators_pb2.DeleteTenantResponse(
            applied=done.applied, holds_ended=done.holds, keys_removed=done.keys, next_page_token=done.place
        )

    @answering
    async def ListAudit(
        self, request: operators_pb2.ListAuditRequest, within_s: float
    ) -> operators_pb2.ListAuditResponse:
        """Lists what operators did, a page at a time."""
        ref = TenantRef(request.policy, request.tenant)
        lines, following = await self._administration.operators.audit(
            ref, request.page_size, request.page_token, within_s=within_s
        )
        return operators_pb2.ListAuditResponse(entries=convert_acts.entries(lines), next_page_token=following)

    @answering
    async def ListNotifications(
        self, request: admin_service_pb2.ListNotificationsRequest, within_s: float
    ) -> admin_service_pb2.ListNotificationsResponse:
        """Lists what a tenant's people are to be told, a page at a time."""
        listed, next_page_token = await self._administration.notices.listed(
            TenantRef(request.policy, request.tenant),
            request.page_size,
            request.page_token,
            within_s=within_s,
        )
        return admin_service_pb2.ListNotificationsResponse(
            notifications=map(convert_usage.notification, listed), next_page_token=next_page_token
        )

    @streaming
    async def WatchNotifications(
        self, request: admin_service_pb2.WatchNotificationsRequest, within_s: float
    ) -> AsyncGenerator[admin_service_pb2.WatchNotificationsResponse, None]:
        """Tells notifications as they are noted, until the caller or the server ends it."""
        ref = TenantRef(request.policy, request.tenant)
        async with aclosing(self._administration.notices.watch(ref, request.after_id, within_s=within_s)) as watch:
            async for told in watch:
                yield admin_service_pb2.WatchNotificationsResponse(notification=convert_usage.notification(told))

    def end_watches(self) -> None:
        """Ends every open stream, with status OK."""
        self._administration.notices.end_watches()

    @answering
    async def GetPolicy(
        self, request: admin_service_pb2.GetPolicyRequest, _within_s: float
    ) -> admin_service_pb2.GetPolicyResponse:
        """The policy that decides now."""
        policy = self._administration.get_policy(request.policy)
        return admin_service_pb2.GetPolicyResponse(policy=policy.name, version=policy.version, text=policy.text)

    @answering
    async def ReloadPolicy(
        self, _request: admin_service_pb2.ReloadPolicyRequest, _within_s: float
    ) -> admin_service_pb2.ReloadPolicyResponse:
        """Reads the policy files again, beside the event loop: a large file must not hold up decisions."""
        versions = await asyncio.to_thread(self._administration.reload_policies)
        return admin_service_pb2.ReloadPolicyResponse(versions=versions)

    @answering
    async def ValidatePolicy(
        self, request: admin_service_pb2.ValidatePolicyRequest, _within_s: float
    ) -> admin_service_pb2.ValidatePolicyResponse:
        """Checks a policy text without using it, beside the event loop."""
        errors, version = await asyncio.to_thread(self._administration.validate_policy, request.text)
        return admin_service_pb2.ValidatePolicyResponse(errors=errors, version=version)


def _word(request: _WithReason) -> Word:
    """On whose word this is done."""
    return Word(entry.caller_name(), request.reason)
