"""The file of callers: YAML as strict as a policy's, with a line for each fault."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from server.access.callers import ANY, Caller, Callers, Rule
from server.policy.document import Document, shown
from server.policy.model import HASH, Model, Name, Text
from server.policy.schema import fitted
from server.policy.store import read_text

Hash = Annotated[str, Field(pattern=HASH)]


class RuleModel(Model):
    """What is allowed."""

    methods: Annotated[list[Text], Field(min_length=1)]
    tenants: Annotated[list[Text], Field(min_length=1)]
    policies: Annotated[list[Text], Field(min_length=1)] = Field(default_factory=lambda: [ANY])


class CallerModel(Model):
    """Who is allowed it."""

    name: Name
    certificates: list[Text] = Field(default_factory=list)
    tokens_sha256: list[Hash] = Field(default_factory=list)
    allow: Annotated[list[RuleModel], Field(min_length=1)]


class CallersModel(Model):
    """The file."""

    callers: Annotated[list[CallerModel], Field(min_length=1)]


def read_callers(path: Path, methods: Collection[str], *, asks_certificates: bool) -> Callers:
    """The callers of a file; `methods` are all that there are. Raises PolicyRejectedError with file and lines."""
    return callers_of(read_text(path), str(path), methods, asks_certificates=asks_certificates)


def callers_of(text: str, source: str, methods: Collection[str], *, asks_certificates: bool) -> Callers:
    """As `read_callers`, for a text; `source` names it in messages."""
    document = Document(text, source, {})
    model = fitted(document, CallersModel)
    _expect_once(document, model)
    for number, caller in enumerate(model.callers):
        if not (caller.certificates or caller.tokens_sha256):
            problem = "nobody can show to be this caller; give it certificates or tokens_sha256"
            document.reject(("callers", number), problem)
        if caller.certificates and not asks_certificates:
            problem = "the server asks nobody for a certificate; give it --tls-client-ca, or the caller a token"
            document.reject(("callers", number, "certificates"), problem)
        for place, rule in enumerate(caller.allow):
            _expect_patterns(document, ("callers", number, "allow", place), rule, methods)
    document.raise_if_rejected()
    return Callers(
        Caller(
            name=caller.name,
            certificates=tuple(caller.certificates),
            tokens=tuple(caller.tokens_sha256),
            rules=tuple(Rule(tuple(r.methods), tuple(r.tenants), tuple(r.policies)) for r in caller.allow),
        )
        for caller in model.callers
    )


def _expect_once(document: Document, model: CallersModel) -> None:
    """What tells callers apart may be no two callers' own."""
    seen: dict[tuple[str, str], str] = {}
    for number, caller in enumerate(model.callers):
        shows: Mapping[str, list[str]] = {
            "name": [caller.name],
            "certificates": caller.certificates,
            "tokens_sha256": caller.tokens_sha256,
        }
        for key, values in shows.items():
            for value in values:
                first = seen.setdefault((key, value), f"callers[{number}]")
                if first != f"callers[{number}]":
                    document.reject(("callers", number, key), f"{shown(value)} is at {first} too; keep one")


def _expect_patterns(document: Document, path: tuple[object, ...], rule: RuleModel, methods: Collection[str]) -> None:
    for key, patterns in (("methods", rule.methods), ("tenants", rule.tenants), ("policies", rule.policies)):
        for place, pattern in enumerate(patterns):
            if ANY in pattern[:-1]:
                document.reject((*path, key, place), f"{shown(pattern)}; a * stands at the end alone")
    for place, pattern in enumerate(rule.methods):
        if not any(map(Rule((pattern,), (), ()).names, methods)):
            services = ", ".join(sorted({method.partition("/")[0] + "/*" for method in methods if method[0] != "/"}))
            problem = f"{shown(pattern)} is no method; expected one of quota.v1.QuotaService/Settle …, {services}"
            document.reject((*path, "methods", place), problem)
