"""Refusals and the envelope: texts parsed, and each of their fields checked to be one that is ever filled."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.domain.policy import Envelope, RefusalRule
from server.domain.templates import Template
from server.policy import fields
from server.policy.context import Context
from server.policy.document import Path, shown
from server.policy.fields import Fills, Value
from server.policy.kinds import WindowModel
from server.policy.kinds.base import LimitModel
from server.policy.schema import EnvelopeModel, PolicyModel, RefusalModel

FIELDS_KEY: Final = "+"
"""The key of a body's object that stands for the refusal's own fields."""

_FIELDS: Final = "fields"
_GRANTED: Final = 200


def compile_refusals(context: Context, model: PolicyModel) -> dict[str, RefusalRule]:
    """The refusals by code.

    A message must be complete whichever limit refuses. A field is left out when it has no value, so it is
    enough that one of the limits can fill it.
    """
    rules: dict[str, RefusalRule] = {}
    for code, refusal in model.refusals.items():
        path: Path = ("refusals", code)
        message = _template(context, (*path, "message"), refusal.message)
        for limit in _refusing(model, code):
            named = dict.fromkeys(limit.dimensions(), Value.TEXT)
            if problem := fields.misfit(message, {**_limit_fills(context, refusal, limit), **named}):
                context.reject((*path, "message"), f"when {limit.id} refuses, {problem}")
        possible = _possible_fills(context, model, code)
        texts = {
            name: _checked(context, (*path, "fields", name), text, possible) for name, text in refusal.fields.items()
        }
        rules[code] = RefusalRule(code, refusal.http, refusal.retryable, message, texts)
    return rules


def compile_envelope(context: Context, model: PolicyModel) -> Envelope | None:
    """The envelope; its texts need fields that some refusal, or for a header of 200 a grant, can fill."""
    envelope = model.envelope
    if envelope is None:
        return None
    path: Path = ("envelope",)
    body = _body(context, (*path, "body"), envelope.body, _envelope_fills(context, model, envelope))
    _check_fields_key(context, envelope.body, model)
    headers: dict[int, dict[str, Template]] = {}
    for status, texts in envelope.headers.items():
        at = (*path, "headers", status)
        if status == _GRANTED:
            possible: list[Fills] = [{**fields.GRANT, **_named_fills(context, model)}]
        else:
            possible = _envelope_fills(context, model, envelope, status)
        if not possible:
            context.reject(at, f"no refusal has status {status}; expected one that has, or 200 for a grant")
        headers[status] = {name: _header(context, (*at, name), text, possible) for name, text in texts.items()}
    if envelope.problem and (envelope.body or envelope.types):
        context.reject((*path, "problem"), "is a body by itself; leave `body` and `types` out")
    return Envelope(
        body=body,
        headers=headers,
        types=envelope.types,
        ratelimit=envelope.ratelimit or "",
        problem=envelope.problem or "",
        rate=_rate(context, (*path, "rate"), model),
    )


def _rate(context: Context, path: Path, model: PolicyModel) -> str:
    """The id of the window that grants tell of; empty for the tightest."""
    named = model.envelope.rate if model.envelope is not None else None
    if named is not None:
        windows = [limit.id for limit in model.limits if isinstance(limit, WindowModel) and not limit.shadow]
        context.expect_known(path, [named], windows, "window")
    return named or ""


def _refusing(model: PolicyModel, code: str) -> list[LimitModel]:
    return [limit for limit in model.limits if code in limit.codes()]


def _named_fills(context: Context, model: PolicyModel) -> Fills:
    windows = fields.WINDOWS if any(isinstance(limit, WindowModel) for limit in model.limits) else {}
    tier = fields.TIER if model.tiers else {}
    return {**dict.fromkeys(context.dimensions, Value.TEXT), **windows, **tier}


def _limit_fills(context: Context, refusal: RefusalModel, limit: LimitModel) -> Fills:
    own = limit.fills(context)
    return {**fields.REFUSAL, **(own if refusal.retryable else _without_hint(own))}


def _without_hint(fills: Fills) -> Fills:
    return {name: value for name, value in fills.items() if name not in fields.RETRY_AFTER}


def _possible_fills(context: Context, model: PolicyModel, code: str) -> list[Fills]:
    named, refusal = _named_fills(context, model), model.refusals[code]
    return [{**named, **_limit_fills(context, refusal, limit)} for limit in _refusing(model, code)]


def _envelope_fills(
    context: Context, model: PolicyModel, envelope: EnvelopeModel, status: int | None = None
) -> list[Fills]:
    named = _named_fills(context, model)
    possible: list[Fills] = []
    for code, refusal in model.refusals.items():
        if status not in {None, refusal.http}:
            continue
        typed = fields.TYPE if refusal.http in envelope.types else {}
        for limit in _refusing(model, code):
            hint = _limit_fills(context, refusal, limit).keys() & fields.RETRY_AFTER
            possible.append({**named, **fields.ENVELOPE, **typed, **(fields.RETRY_AFTER if hint else {})})
    return possible


def _template(context: Context, path: Path, text: str) -> Template:
    try:
        return Template.parse(text)
    except ValueError as error:
        context.reject(path, str(error))
        return Template(())


def _checked(context: Context, path: Path, text: str, possible: Sequence[Fills]) -> Template:
    template = _template(context, path, text)
    problems = [fields.misfit(template, fills) for fills in possible]
    if problems and all(problems):
        context.reject(path, str(problems[0]))
    return template


def _header(context: Context, path: Path, text: str, possible: Sequence[Fills]) -> Template:
    if not text.isprintable():
        context.reject(path, f"{shown(text)} cannot be a header; expected printable text on one line")
    return _checked(context, path, text, possible)


def _body(context: Context, path: Path, body: Mapping[Any, object], possible: Sequence[Fills]) -> dict[str, object]:
    compiled: dict[str, object] = {}
    for key, value in body.items():
        at = (*path, key)
        if not isinstance(key, str):
            context.reject(at, f"the key {shown(key)}; expected text")
        elif key == FIELDS_KEY:
            if value != _FIELDS:
                context.reject(at, f"{shown(value)}; '+' takes the refusal's own fields, expected fields")
            compiled[key] = value
        elif isinstance(value, dict):
            compiled[key] = _body(context, at, value, possible)
        elif isinstance(value, str):
            compiled[key] = _checked(context, at, value, possible)
        else:
            context.reject(at, f"{shown(value)}; expected text or a mapping")
    return compiled


def _check_fields_key(context: Context, body: Mapping[Any, object], model: PolicyModel) -> None:
    for value in body.values():
        if isinstance(value, dict):
            _check_fields_key(context, value, model)
    if FIELDS_KEY not in body:
        return
    for code, refusal in model.refusals.items():
        for name in refusal.fields:
            if name in body:
                problem = f"the body has {name} already where this goes; give one of them another name"
                context.reject(("refusals", code, "fields", name), problem)
