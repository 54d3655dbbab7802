"""What `holdgate ledger` and `holdgate reconcile` print: a tenant's money, asked of a server."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import json_format
from quota.v1 import admin_service_pb2
from rich import box
from rich.console import Console
from rich.table import Table

from server.reaching import Target, complain, warn

OK: Final = 0
FAILED: Final = 1

WITHIN_S: Final = 10.0
PAGE: Final = 1000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PIPE_WIDTH: Final = 240  # columns where there is no terminal to ask, so that no cell is broken

_Answer = TypeVar("_Answer")


def ledger(target: Target, policy: str, tenant: str, export: Path | None) -> int:
    """Prints the tenant's ledger as a statement, or appends it to a file and drops it; 1 when server or file fail."""
    with target.channel() as channel:
        try:
            if export is not None:
                _say(_exported(channel, policy, tenant, export))
            else:
                _print(statement := _statement(_pages(channel, policy, tenant)))
                if not statement.row_count:
                    warn(f"{tenant} has no entries: balances with `ledger: true` have, until they are exported")
        except grpc.RpcError as error:
            return complain(target, error)
        except OSError as error:
            warn(f"{export}: cannot be written: {error.strerror}; what is not in it was not dropped")
            return FAILED
    return OK


def reconcile(target: Target, policy: str, tenant: str, reason: str, *, repair: bool) -> int:
    """Prints each difference of the tenant's balances; 1 while there is one, or when the server fails."""
    request = admin_service_pb2.ReconcileBalancesRequest(policy=policy, tenant=tenant, repair=repair, reason=reason)
    with target.channel() as channel:
        try:
            answer = unary(channel, "ReconcileBalances", request, admin_service_pb2.ReconcileBalancesResponse)
        except grpc.RpcError as error:
            return complain(target, error)
    for difference in answer.differences:
        _say(f"{difference.limit_id}: {difference.what} is {difference.found:,}, expected {difference.expected:,}")
    if not answer.differences:
        _say(f"{tenant}: all adds up, over {answer.entries:,} ledger entries")
        return OK
    _say(
        f"{tenant}: repaired" if answer.repaired else f"{tenant}: nothing was changed; --repair takes what is expected"
    )
    return OK if answer.repaired else FAILED


def _exported(channel: grpc.Channel, policy: str, tenant: str, path: Path) -> str:
    """Appends entries page by page; a page is on disk before it is dropped. A page may be there twice, never not."""
    written = 0
    with path.open("a", encoding="utf-8") as file:
        for page in _pages(channel, policy, tenant):
            for entry in page:
                line = json_format.MessageToJson(entry, indent=None, always_print_fields_with_no_presence=True)
                file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
            written += len(page)
            trim = admin_service_pb2.TrimLedgerRequest(policy=policy, tenant=tenant, through_sequence=page[-1].sequence)
            unary(channel, "TrimLedger", trim, admin_service_pb2.TrimLedgerResponse)
    return f"{tenant}: {written:,} entries to {path}"


def _pages(channel: grpc.Channel, policy: str, tenant: str) -> Iterator[list[admin_service_pb2.LedgerEntry]]:
    after = 0
    while True:
        request = admin_service_pb2.ListLedgerRequest(
            policy=policy, tenant=tenant, after_sequence=after, page_size=PAGE
        )
        answer = unary(channel, "ListLedger", request, admin_service_pb2.ListLedgerResponse)
        if answer.entries:
            yield list(answer.entries)
        if not answer.HasField("next_after_sequence"):
            return
        after = answer.next_after_sequence


def _statement(pages: Iterator[list[admin_service_pb2.LedgerEntry]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in (("#", "right"), ("time", "left"), ("what", "left"), ("units", "right"), ("balance", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # one of rich's words
    table.add_column("reference")
    table.add_column("of")
    for page in pages:
        for entry in page:
            table.add_row(
                str(entry.sequence),
                f"{_EPOCH + timedelta(milliseconds=entry.at_ms):%Y-%m-%d %H:%M:%S}",
                _what(entry),
                f"{entry.units:+,}" if entry.units else "0",
                f"{_worth(entry.after):,}",
                entry.reference,
                entry.limit_id,
            )
    return table


def _what(entry: admin_service_pb2.LedgerEntry) -> str:
    """The cause in words, and what of it could not be charged."""
    words = admin_service_pb2.LedgerCause.Name(entry.cause).removeprefix("LEDGER_CAUSE_").lower().replace("_", " ")
    uncollected = entry.after.uncollected - entry.before.uncollected
    return f"{words}, {uncollected:,} uncollected" if uncollected else words


def _worth(totals: admin_service_pb2.BalanceTotals) -> int:
    return totals.granted - totals.reversed - totals.charged - totals.expired


def unary(channel: grpc.Channel, name: str, request: Any, answer: type[_Answer]) -> _Answer:  # noqa: ANN401  # any message
    """A call of AdminService by its name: the stubs' annotations know asynchronous channels only."""
    message: Any = answer
    call: Callable[..., _Answer] = channel.unary_unary(
        f"/quota.v1.AdminService/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message.FromString,
    )
    return call(request, timeout=WITHIN_S)


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    else:
        table.box = box.SIMPLE
    console.print(table)


def _say(text: str) -> None:
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(text)
