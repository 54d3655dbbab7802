"""Messages about what operators do to domain values and back."""

from collections.abc import Iterable
from typing import Final

from quota.v1 import operators_pb2

from server.domain.act import AuditLine, Deed
from server.operators import Change

_ACTIONS: Final = {deed: operators_pb2.AuditAction.Value(f"AUDIT_ACTION_{deed.name}") for deed in Deed}


def change(request: operators_pb2.AdjustLimitRequest) -> Change | None:
    """What is to be done; None where it is not said."""
    match request.WhichOneof("change"):
        case "add":
            return Change(request.add, sets=False)
        case "set_to":
            return Change(request.set_to, sets=True)
    return None


def entries(lines: Iterable[AuditLine]) -> list[operators_pb2.AuditEntry]:
    """Lines of the audit trail as they travel."""
    return [
        operators_pb2.AuditEntry(
            entry_id=line.line_id,
            at_ms=line.at_ms,
            caller=line.act.who,
            action=_ACTIONS[line.act.deed],
            tenant=line.ref.tenant,
            target=line.act.target,
            request_id=line.act.request_id.partition("/")[2],
            reason=line.act.why,
            before=line.act.before,
            after=line.act.after,
        )
        for line in lines
    ]
