"""What stands behind a proxy: answers as it is told, as slowly as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PATIENCE_S = 20.0


class Upstream:
    """`calls` are the requests that reached it, with their headers; `gate` holds those to /slow until it is set."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.gate = threading.Event()


@contextmanager
def upstream() -> Iterator[tuple[str, Upstream]]:
    """Serves on a free port; `?used=N` sends N as x-tokens-used."""
    state = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.calls.append({name.lower(): value for name, value in self.headers.items()})
            url = urlsplit(self.path)
            if url.path == "/slow":
                state.gate.wait(PATIENCE_S)
            body = b"the work"
            self.send_response(200)
            for used in parse_qs(url.query).get("used", []):
                self.send_header("x-tokens-used", used)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:  # noqa: A002  # the base class's name
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", state
    finally:
        state.gate.set()
        server.shutdown()
        server.server_close()
