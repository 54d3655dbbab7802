"""Where a server listens, by what transport, with what certificate, and who may come in."""

from server.access.store import CallerStore
from server.logs import log
from server.rpc.transports.base import ListenError, Transport
from server.rpc.transports.grpcio import GrpcioTransport
from server.rpc.transports.tls import TlsError, TlsFiles
from server.settings import Settings, is_loopback
from server.settings import Transport as TransportName


def transport_of(settings: Settings, listen: str) -> Transport:
    """The transport that the settings choose, for this address; raises ListenError for one that cannot be had."""
    tls = tls_of(settings)
    shared = settings.workers > 1
    if settings.transport is not TransportName.GRPCIO:
        try:
            from server.rpc.transports.asgi.serve import AsgiTransport  # noqa: PLC0415  # its wheel may be missing
        except ImportError as error:
            if settings.transport is TransportName.ASGI:
                raise ListenError(f"--transport asgi needs h2corn, which cannot be imported: {error}") from error
        else:
            return AsgiTransport(listen, reuse_port=shared, tls=tls)
    return GrpcioTransport(listen, reuse_port=shared, tls=tls)


def tls_of(settings: Settings) -> TlsFiles | None:
    """The certificate to serve with, if any; raises ListenError where it cannot be used."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    tls = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    try:
        tls.check()
    except TlsError as error:
        raise ListenError(str(error)) from error
    return tls


def callers_of(settings: Settings, methods: frozenset[str]) -> CallerStore | None:
    """Who may call which of all `methods`, if callers are told apart; raises PolicyRejectedError."""
    if settings.callers is None:
        return None
    if settings.tls_cert is None and not is_loopback(settings.listen):
        log.warning("callers.readable", note="without TLS, tokens travel for everybody to read")
    return CallerStore(settings.callers, methods, asks_certificates=settings.tls_client_ca is not None)
