"""The yardstick of the server's figures: the least that a call costs, whatever it is about.

`python -m benchmarks.empty_call TRANSPORT N` serves on a free loopback port, and answers every CheckAndReserve with N
bytes. Nothing is read of the request and nothing decided. TRANSPORT is `grpc.aio`, or `asgi` for the one of ours.
"""

import asyncio
import signal
import sys
from typing import Any, Final

import grpc
import uvloop

from server.rpc.transports.asgi.serve import AsgiTransport

SERVICE: Final = "quota.v1.QuotaService"
METHOD: Final = "CheckAndReserve"
GRPC_AIO: Final = "grpc.aio"
ASGI: Final = "asgi"
_ANY_PORT: Final = "127.0.0.1:0"


async def serve(transport: str, reply: bytes) -> None:
    """Serves until SIGTERM; one line says where."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async def answer(_request: bytes, _context: object) -> bytes:
        return reply

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(answer, bytes, bytes)
    }
    if transport == GRPC_AIO:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"127.0.0.1:{server.add_insecure_port(_ANY_PORT)}"
        await server.start()
        _announce(address)
        await stop.wait()
        await server.stop(None)
    else:
        ours = AsgiTransport(_ANY_PORT)
        ours.server.add_registered_method_handlers(SERVICE, handlers)
        _announce(await ours.start())
        await stop.wait()
        await ours.stop(0)


def _announce(address: str) -> None:
    sys.stdout.write(f"answers on {address}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], bytes(int(sys.argv[2]))))
