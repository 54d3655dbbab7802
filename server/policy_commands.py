"""What `holdgate policy …` prints: all of it offline, from the files alone."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from server.domain.account import Account
from server.domain.errors import HoldgateError, InvalidRequestError, PolicyRejectedError
from server.domain.limits import Balance, Gate, Guard, Kind, Limit, Quota
from server.domain.limits.base import PlanValues
from server.domain.operation import Operation, TenantRef, unknown
from server.domain.plan import account_or_default
from server.domain.policy import Policy, Unit
from server.domain.pricing import total
from server.domain.templates import Template
from server.policy.compiler import compile_document
from server.policy.context import row_name
from server.policy.document import Document
from server.policy.json_schema import json_schema
from server.policy.knobs import KnobSource
from server.policy.store import read_policies, read_text

OK: Final = 0
FAILED: Final = 1

_SETTINGS_FILE: Final = "HOLDGATE_SETTINGS_FILE"
_PIPE_WIDTH: Final = 240  # columns where there is no terminal to ask, so that no cell is broken
_BEHIND: Final = {Kind.BALANCE: " at first", Kind.QUOTA: " per cycle"}
_WRITTEN: Final = {
    Unit.COUNT: Template.parse("{x}"),
    Unit.DURATION: Template.parse("{x:sec} s"),
    Unit.MONEY: Template.parse("${x:usd}"),
}


def check(paths: Sequence[Path]) -> int:
    """Prints a line for each good file, and each problem of a bad one; 1 if any is bad."""
    console = _console()
    try:
        found = read_policies(paths, _knobs())
    except PolicyRejectedError as error:
        console.print(error.message)
        return FAILED
    for path, policy in found.items():
        if isinstance(policy, Policy):
            console.print(f"ok  {path}  {policy.name}  version {policy.version}")
        else:
            console.print(policy.message)
    return OK if all(isinstance(policy, Policy) for policy in found.values()) else FAILED


def schema() -> int:
    """Prints the JSON Schema of policy files."""
    _console().print(json_schema(), end="")
    return OK


def explain(
    path: Path, account: Mapping[str, Any], action: str, scope: Mapping[str, str], amounts: Mapping[str, int]
) -> int:
    """Prints which limits apply to a request and why, with their values and where those come from.

    `account` has `plan` (None for the policy's default) and `flags`. 1 if the file or the request is bad.
    """
    console = _console()
    try:
        document = Document(read_text(path), str(path), _knobs().read())
        policy = compile_document(document)
        operation = Operation(ref=TenantRef(policy.name, "anyone"), action=action, scope=scope, amounts=amounts)
        operation.validate(policy)
        _must_name_a_plan(account["plan"], policy)
        known = None if account["plan"] is None else Account(plan=account["plan"], flags=account["flags"])
        explanation = _Explanation(document, policy, operation, account_or_default(policy, operation.ref, known, 0))
    except HoldgateError as error:
        console.print(error.message)
        return FAILED
    explanation.print(console)
    return OK


def _must_name_a_plan(plan: str | None, policy: Policy) -> None:
    if plan is None and policy.default_plan is None:
        text = f"is required, as policy {policy.name!r} has no default plan; it has: {', '.join(policy.plans)}"
        raise InvalidRequestError.of("--plan", text)
    if plan is not None and plan not in policy.plans:
        raise InvalidRequestError([unknown("--plan", plan, policy.name, "plan", dict.fromkeys(policy.plans))])


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _knobs() -> KnobSource:
    settings_file = os.environ.get(_SETTINGS_FILE)
    return KnobSource(os.environ, Path(settings_file) if settings_file else None)


class _Explanation:
    """One request against one policy, limit by limit."""

    def __init__(self, document: Document, policy: Policy, operation: Operation, account: Account) -> None:
        self._document = document
        self._policy = policy
        self._operation = operation
        self._account = account
        self._amounts = total(operation, policy)

    def print(self, console: Console) -> None:
        """Prints the limits that apply, then the others."""
        policy, plan = self._policy, self._account.plan
        console.print(f"{policy.name} version {policy.version}: {self._operation.action} on plan {plan}")
        applying = self._table(console, "limit", "kind", "applies to", "asks for", "value", "from", "outcome")
        others = self._table(console, "limit", "kind", "does not apply because")
        for index, limit in enumerate(policy.limits):
            kind = limit.kind.name.lower()
            reason = self._why_not(limit)
            if reason:
                others.add_row(limit.id, kind, reason)
            else:
                applying.add_row(limit.id, kind, _applies_to(limit), *self._figures(index, limit))
        for table in (applying, others):
            if table.row_count:
                console.print()
                console.print(table)

    @staticmethod
    def _table(console: Console, *columns: str) -> Table:
        table = Table(box=box.SIMPLE if console.is_terminal else None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        return table

    def _why_not(self, limit: Limit) -> str:
        action, scope = self._operation.action, self._operation.scope
        if limit.actions is not None and action not in limit.actions:
            return f"the action is {action}; it is for {_listed(limit.actions)}"
        left_out = [name for name in limit.scope if name not in scope] if action in limit.optional_for else []
        if left_out:
            return f"{left_out[0]} is not named; {action} need not name it"
        for name, allowed in limit.when.items():
            if scope.get(name) not in allowed:
                return f"{name} is {scope.get(name, 'not named')}; it is for {_listed(allowed)}"
        if self._account.flags.get(limit.unless):
            return f"the account has the flag {limit.unless}"
        if not isinstance(limit, Gate | Balance | Quota) and limit.values.of(self._account.plan) is None:
            return f"it is unlimited on plan {self._account.plan}"
        return ""

    def _figures(self, index: int, limit: Limit) -> tuple[str, str, str, str]:
        if isinstance(limit, Gate):
            return self._gate_figures(index, limit)
        values, key = (limit.opening, "opening") if isinstance(limit, Balance) else (limit.values, "limit")
        value, amount = values.of(self._account.plan), self._asked(limit)
        room = "room for " if self._operation.action in limit.room else ""
        return (
            f"{room}{self._written(limit, amount)}",
            "unlimited"
            if isinstance(limit, Quota) and value is None
            else f"{self._written(limit, value or 0)}{_BEHIND.get(limit.kind, '')}",
            self._origin(index, key, values),
            self._counted_only(limit) if value is None else self._outcome(limit, amount, value),
        )

    def _gate_figures(self, index: int, limit: Gate) -> tuple[str, str, str, str]:
        passes = limit.passes(self._account, self._operation.scope)
        outcome = "passes" if passes else self._refused(limit)
        if limit.flag:
            has = "set" if self._account.flags.get(limit.flag, False) else "not set"
            wanted = "set" if limit.expect else "not set"
            return f"flag {limit.flag}: {has}", wanted, f"line {self._line(index, 'flag')}", outcome
        if limit.plans:
            plan = self._account.plan
            return f"plan {plan}", _listed(limit.plans, ordered=True), f"line {self._line(index, 'plans')}", outcome
        asked = self._operation.scope.get(limit.of, "not named")
        allowed = _listed(limit.allowed(self._account), ordered=True) or "nothing"
        origin = f"plan {self._account.plan}, line {self._line(index, 'allow', self._account.plan)}"
        return f"{limit.of}: {asked}", allowed, origin, outcome

    def _outcome(self, limit: Limit, amount: int, value: int) -> str:
        if isinstance(limit, Guard):
            return "passes" if amount <= value else self._refused(limit)
        if amount == 0:
            return "passes: it asks for nothing"
        if isinstance(limit, Quota) and (promise := self._promise(limit)):
            return promise
        if not isinstance(limit, Balance) and amount > value:
            return f"{self._refused(limit)}, always: it asks for more than there can be"
        return f"depends on what is {'left' if isinstance(limit, Balance) else 'used'}; else {self._refused(limit)}"

    def _promise(self, quota: Quota) -> str:
        """What a quota does above its limit, where it does not refuse there."""
        overage, grace_ms = quota.overage.of(self._account.plan), quota.grace.of(self._account.plan)
        if overage is None:
            return "passes: use above the limit is billed"
        if grace_ms:
            return f"passes until {_WRITTEN[Unit.DURATION].text({'x': grace_ms})} after exhaustion"
        return ""

    def _counted_only(self, limit: Limit) -> str:
        return "passes: it only counts" if isinstance(limit, Quota) else self._outcome(limit, self._asked(limit), 0)

    def _refused(self, limit: Limit) -> str:
        rule = self._policy.refusals[limit.refuse]
        return f"{'noted' if limit.shadow else 'refused'}: {rule.http_status} {rule.code}"

    def _asked(self, limit: Limit) -> int:
        if (room := limit.room.get(self._operation.action)) is not None:
            return room
        if not limit.meter:
            return 1
        return self._amounts.get(limit.meter, self._policy.meters[limit.meter].per_request)

    def _written(self, limit: Limit, amount: int) -> str:
        meter = self._policy.meters.get(limit.meter)
        written = _WRITTEN[meter.unit if meter else Unit.COUNT].text({"x": amount})
        return f"{written} {limit.meter}" if meter and meter.unit is Unit.COUNT else str(written)

    def _line(self, *path: str | int) -> int:
        return self._document.line(("limits", *path))

    def _origin(self, index: int, key: str, values: PlanValues) -> str:
        path: tuple[str | int, ...] = ("limits", index, key)
        limits: Any = self._document.data
        written = limits["limits"][index].get(key, 0)
        row = row_name(written) if isinstance(written, str) else None
        if row is not None:
            path = ("values", row)
        if values.by_plan is not None:
            path = (*path, self._account.plan)
        where = f"plan {self._account.plan}" if values.by_plan is not None else "every plan"
        knobs = "".join(f", {name}={value}" for name, value in self._document.knobs_of(path).items())
        return f"{f'${row}, ' if row else ''}{where}, line {self._document.line(path)}{knobs}"


def _applies_to(limit: Limit) -> str:
    parts = ["every action" if limit.actions is None else _listed(limit.actions)]
    parts += [f"{name} {_listed(allowed)}" for name, allowed in limit.when.items()]
    parts += [f"per {name}" for name in limit.scope]
    return "; ".join(parts)


def _listed(names: Sequence[str] | frozenset[str], *, ordered: bool = False) -> str:
    return ", ".join(names if ordered else sorted(names))
