"""From a policy's shape to the snapshot that decides: names resolved, values in base units, texts parsed."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from server.domain.limits.base import Limit
from server.domain.policy import ACTION, Action, HoldTerms, Meter, Policy, Product, Timed, Unit
from server.policy import fields
from server.policy.answers import compile_envelope, compile_refusals
from server.policy.context import Context
from server.policy.document import Document, Path, shown
from server.policy.kinds import BalanceModel
from server.policy.ladder import compile_tiers
from server.policy.names import compile_catalog, compile_known, compile_totals, compile_usual
from server.policy.queues import check_queues
from server.policy.schema import ActionModel, HoldModel, PolicyModel, PriceModel, TimedModel, shaped

_VERSION_LENGTH: Final = 12


def compile_text(text: str, source: str, knobs: Mapping[str, str]) -> Policy:
    """The policy that `text` states.

    `source` names the text in messages; `knobs` are the values of `${NAME}`. Raises PolicyRejectedError with a
    line `source:line: path: what is wrong` for each problem.
    """
    return compile_document(Document(text, source, knobs))


def compile_document(document: Document) -> Policy:
    """As `compile_text`, for a text that was read before."""
    model = shaped(document)
    context = _context(document, model)
    _check_names(context, model)
    actions = _actions(context, model)
    products = {name: _product(context, ("prices", name), price) for name, price in model.prices.items()}
    limits = _limits(context, model)
    check_queues(context, model.limits, actions)
    tiers = compile_tiers(context, model)
    catalog, known = compile_catalog(context, model), compile_known(context, model)
    usual, totals = compile_usual(context, model), compile_totals(context, model)
    document.raise_if_rejected()
    refusals = compile_refusals(context, model)
    envelope = compile_envelope(context, model)
    document.raise_if_rejected()
    return Policy(
        name=model.policy,
        version=_version(document),
        text=document.text,
        tenant=model.tenant,
        meters=context.meters,
        plans=context.plans,
        default_plan=model.default_plan,
        dimensions=context.dimensions,
        actions=actions,
        limits=limits,
        products=products,
        refusals=refusals,
        precedence=tuple(model.precedence),
        envelope=envelope,
        tiers=tiers,
        catalog=catalog,
        known_values=known,
        usual=usual,
        totals=totals,
    )


def _version(document: Document) -> str:
    knobs = "".join(f"\0{name}={value}" for name, value in sorted(document.knobs.items()))
    return sha256((document.text + knobs).encode()).hexdigest()[:_VERSION_LENGTH]


def _context(document: Document, model: PolicyModel) -> Context:
    meters = {name: Meter(name, meter.unit, meter.per_request) for name, meter in model.meters.items()}
    return Context(
        document=document,
        tenant=model.tenant,
        plans=tuple(model.plans or model.tiers or ()),
        meters=meters,
        dimensions=frozenset(model.scope),
        actions=frozenset(model.actions),
        rows=model.values,
    )


def _check_names(context: Context, model: PolicyModel) -> None:
    context.expect_once(("plans",), context.plans)
    if not context.plans:
        context.reject((), "'plans' is missing; expected a list of plans, or `tiers`")
    context.expect_once(("scope",), model.scope)
    context.expect_once(("precedence",), model.precedence)
    for name in model.scope:
        if name in fields.RESERVED or name == model.tenant:
            context.reject(("scope",), f"{shown(name)} is taken; a dimension needs a name of its own")
    if model.default_plan is not None:
        context.expect_known(("default_plan",), [model.default_plan], context.plans, "plan")
    context.expect_known(("precedence",), model.precedence, model.refusals, "refusal")
    missing = [code for code in model.refusals if code not in model.precedence]
    if model.precedence and missing:
        context.reject(("precedence",), f"no place for {', '.join(missing)}; expected all refusals, first to last")
    refused = {code for limit in model.limits for code in limit.codes()}
    for code in model.refusals:
        if code not in refused:
            context.reject(("refusals", code), "no limit refuses with this code; remove it, or use it")


def _actions(context: Context, model: PolicyModel) -> dict[str, Action]:
    usual = _terms(context, ("hold",), model.hold, HoldTerms())
    return {name: _action(context, ("actions", name), action, usual) for name, action in model.actions.items()}


def _action(context: Context, path: Path, model: ActionModel, usual: HoldTerms) -> Action:
    terms = _terms(context, (*path, "hold"), model.hold, usual)
    return Action(str(path[-1]), terms, free=model.free, priced=model.priced)


def _terms(context: Context, path: Path, model: HoldModel, usual: HoldTerms) -> HoldTerms:
    def read(key: str, written: int | str | None, usual_ms: int) -> int:
        return usual_ms if written is None else context.duration((*path, key), written)

    terms = HoldTerms(
        lease_ms=read("lease", model.lease, usual.lease_ms),
        longest_ms=read("longest", model.longest, usual.longest_ms),
        tombstone_ms=read("tombstone", model.tombstone, usual.tombstone_ms),
        replay_ms=read("replay", model.replay, usual.replay_ms),
        first_ms=read("first", model.first, usual.first_ms),
        timed=usual.timed if model.timed is None else _timed(context, (*path, "timed"), model.timed),
    )
    if terms.lease_ms > terms.longest_ms:
        problem = f"the lease, {terms.lease_ms} ms, passes the longest hold, {terms.longest_ms} ms"
        context.reject(path, problem)
    return terms


def _timed(context: Context, path: Path, model: TimedModel) -> Timed:
    by, charge = (context.meter((*path, key), getattr(model, key)) for key in ("by", "charge"))
    if by.unit is not Unit.DURATION:
        context.reject((*path, "by"), f"{by.name} is no duration; expected a meter of time")
    return Timed(by.name, charge.name, context.duration((*path, "per"), model.per))


def _product(context: Context, path: Path, price: PriceModel) -> Product:
    def read(place: Path, written: Mapping[str, int | str], *, positive: bool = False) -> dict[str, int]:
        amounts: dict[str, int] = {}
        for name, amount in written.items():
            at = (*place, name)
            unit = context.meter(at, name).unit
            amounts[name] = context.positive(at, amount, unit) if positive else context.amount(at, amount, unit)
        return amounts

    block = read((*path, "per"), price.per, positive=True)
    if (price.charge is None) == (price.tiers is None) or (price.by is None) != (price.tiers is None):
        context.reject(path, "expected either `charge`, or `by` with `tiers`")
    if price.by is not None:
        context.expect_known((*path, "by"), [price.by], {*context.dimensions, ACTION}, "dimension")
    if price.by == ACTION:
        context.expect_known((*path, "tiers"), price.tiers or (), context.actions, "action")
    return Product(
        name=str(path[-1]),
        block=block,
        charge=read((*path, "charge"), price.charge or {}),
        by=price.by or "",
        charges={value: read((*path, "tiers", value), charge) for value, charge in (price.tiers or {}).items()},
    )


def _limits(context: Context, model: PolicyModel) -> tuple[Limit, ...]:
    limits: list[Limit] = []
    seen: set[str] = set()
    balances: dict[str, str] = {}
    for index, limit in enumerate(model.limits):
        path: Path = ("limits", index)
        if isinstance(limit, BalanceModel) and (first := balances.setdefault(limit.meter, limit.id)) != limit.id:
            problem = f"{shown(limit.meter)} is the meter of balance {first}; a meter has one balance"
            context.reject((*path, "meter"), problem)
        if limit.id in seen:
            context.reject((*path, "id"), f"{shown(limit.id)} is the id of an earlier limit; ids are unique")
        seen.add(limit.id)
        context.expect_known((*path, "refuse"), limit.codes(), model.refusals, "refusal")
        limits.append(limit.compile(context, path))
    for row in model.values:
        if row not in context.used_rows:
            context.reject(("values", row), f"no limit refers to ${row}; remove it, or use it")
    return tuple(limits)
