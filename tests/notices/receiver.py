"""An endpoint that takes webhooks: keeps what it was sent, and answers as it is told to."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import orjson


class Received(NamedTuple):
    """One request: its path, its headers by their names in small letters, and its body."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> Any:  # noqa: ANN401  # JSON
        return orjson.loads(self.body)

    @property
    def what(self) -> tuple[str, int]:
        """The tenant and the threshold."""
        return self.content["data"]["tenant"], self.content["data"]["percent"]


@dataclass
class Receiver:
    """Answers 204 unless `answer` gives another status; `taken` are the requests that were answered so, or with 200."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    taken: list[Received] = field(default_factory=list)
    answer: Callable[[Received], int] = lambda _received: 204
    hangs: threading.Event = field(default_factory=threading.Event)
    """While it is clear, nothing is answered."""

    @property
    def told(self) -> list[tuple[str, int]]:
        """Of each request that was taken, the tenant and the threshold."""
        return [each.what for each in self.taken]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver on a loopback port."""
    receiver = Receiver()
    receiver.hangs.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            receiver.received.append(got)
            receiver.hangs.wait(60)
            status = receiver.answer(got)
            if 200 <= status < 300:
                receiver.taken.append(got)
            self.send_response(status)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hooks?source=quota"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.hangs.set()
            server.shutdown()
            thread.join()
