"""Callers, how they are known, and what each may do."""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from server.domain.errors import PermissionDeniedError, UnauthenticatedError
from server.domain.operation import TenantRef

ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """Methods that may be called about tenants. A pattern is a name, or what a name begins with and a `*`."""

    methods: tuple[str, ...]
    tenants: tuple[str, ...]
    policies: tuple[str, ...]

    def names(self, method: str) -> bool:
        """Whether the method is among them, by its full name."""
        return _matches(method, self.methods)

    def covers(self, ref: TenantRef) -> bool:
        """Whether the tenant is among them; `ref` has the policy's full name."""
        return _matches(ref.tenant, self.tenants) and _matches(ref.policy, self.policies)


@dataclass(frozen=True, slots=True)
class Caller:
    """One that is known. `certificates` are SPIFFE ids and names in certificates, `tokens` SHA-256 hashes in hex."""

    name: str
    certificates: tuple[str, ...]
    tokens: tuple[str, ...]
    rules: tuple[Rule, ...]

    def allowed(self, method: str) -> Sequence[Rule]:
        """The rules under which it may call the method; raises PermissionDeniedError if there is none."""
        rules = [rule for rule in self.rules if rule.names(method)]
        if not rules:
            raise PermissionDeniedError(f"caller {self.name!r} may not call {method}", {"caller": self.name})
        return rules


class Callers:
    """All that are known. What identifies two callers identifies none: the file's reader sees to that."""

    def __init__(self, callers: Iterable[Caller]) -> None:
        self.all: Final = tuple(callers)
        self._by_certificate = {name: caller for caller in self.all for name in caller.certificates}
        self._by_token: Mapping[str, Caller] = {token: caller for caller in self.all for token in caller.tokens}

    def who(self, token: str | None, certificate_names: Sequence[str]) -> Caller:
        """Who it is that shows this; a token counts before a certificate. Raises UnauthenticatedError."""
        if token is not None:
            return self._of_token(token)
        for name in certificate_names:
            if (caller := self._by_certificate.get(name)) is not None:
                return caller
        if certificate_names:
            shown = ", ".join(map(repr, certificate_names))
            raise UnauthenticatedError(f"no caller is known by the certificate's names {shown}")
        text = "the call shows neither a certificate nor a token; send 'authorization: Bearer TOKEN'"
        raise UnauthenticatedError(text)

    def _of_token(self, token: str) -> Caller:
        """Every hash is compared, in constant time, so that the time taken tells nothing of any token."""
        digest = sha256(token.encode()).hexdigest()
        found = [caller for known, caller in self._by_token.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise UnauthenticatedError("no caller is known by the token")
        return found[0]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.startswith(pattern[:-1]) if pattern.endswith(ANY) else name == pattern for pattern in patterns)
