"""At the door: who calls is found out before a method runs, and whether it may call it."""

from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from functools import lru_cache
from inspect import isasyncgenfunction
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health

from server.access import entry
from server.access.store import CallerStore
from server.domain.errors import HoldgateError, UnauthenticatedError
from server.rpc import errors
from server.rpc.calls import tell
from server.rpc.registrar import Behaviour, Handler
from server.rpc.transports.asgi import metadata

OPEN: Final = f"{health.SERVICE_NAME}/"
"""Methods that anybody may call: whoever probes a server's health shows nothing."""


class ShownContext(errors.Abortable, Protocol):
    """What a call shows of its caller."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What the caller sent along."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """What TLS says about the caller."""


class Door:
    """A layer around each method, that lets through whom `callers` knows and what they may do."""

    def __init__(self, callers: CallerStore) -> None:
        self._callers = callers

    def __call__(self, method: str, _handler: Handler, behaviour: Behaviour) -> Behaviour:
        """The method, for those who may call it."""
        if method.startswith(OPEN):
            return behaviour
        if isasyncgenfunction(behaviour):

            async def let_through(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # any method's
                await self._let_in(method, request, context)
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response

            return let_through

        async def let_in(request: Any, context: Any) -> Any:  # noqa: ANN401  # any method's
            await self._let_in(method, request, context)
            return await behaviour(request, context)

        return let_in

    async def _let_in(self, method: str, request: Any, context: ShownContext) -> None:  # noqa: ANN401  # any method's
        try:
            names = certificate_names(context.auth_context())
            entry.enter(self._callers.who(token_of(context.invocation_metadata()), names), method)
        except HoldgateError as error:
            tell(method, request, error)
            await errors.abort(context, error)

    def let_in_http(self, method: str, scope: MutableMapping[str, Any]) -> None:
        """As for calls, for a plain HTTP request that stands for this method; raises HoldgateError."""
        names = certificate_names(metadata.tls_facts(scope))
        # No other header matters here: a proxy hands on what its clients send.
        shown = metadata.decoded([(name, value) for name, value in scope["headers"] if name == b"authorization"])
        entry.enter(self._callers.who(token_of(shown), names), method)


def token_of(sent: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The bearer token that a call shows; None where it shows none. Raises UnauthenticatedError for anything else."""
    for key, value in sent:
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise UnauthenticatedError("authorization is not 'Bearer TOKEN'")
            return token.strip()
    return None


def certificate_names(facts: Mapping[str, Iterable[bytes]]) -> Sequence[str]:
    """The names in the certificate that a call shows, SPIFFE ids first; none where it shows none."""
    for pem in facts.get("x509_pem_cert", ()):
        return _names_in(pem)
    return ()


@lru_cache(maxsize=4096)
def _names_in(pem: bytes) -> Sequence[str]:
    """Its URIs, then its host names. The common name counts where there are no such names at all, as for hosts."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return tuple(str(name.value) for name in common)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return (*uris, *names.get_values_for_type(x509.DNSName))
