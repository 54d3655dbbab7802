"""A small gateway: LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]; see ../README.md for what it serves."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from time import sleep
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from holdgate import Ask, Quota, Tls
from holdgate.wsgi import HOLD_KEY, Environ, StartResponse, WsgiQuota


def work(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Works for `ms` milliseconds and uses `units` credits, or fails."""
    query = parse_qs(environ["QUERY_STRING"])
    sleep(int(query.get("ms", ["0"])[0]) / 1000)
    if "fail" in query:
        start_response("500 Internal Server Error", [("Content-Type", "application/json")])
        return [b'{"error": "the work failed"}']
    hold = environ[HOLD_KEY]
    hold.report(credits=int(query.get("units", ["1"])[0]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"hold": hold.hold_id}).encode()]


def ask(environ: Environ) -> Ask:
    """One job of the caller's organization, for as many credits as it may need."""
    query = parse_qs(environ["QUERY_STRING"])
    named = {"request_id": environ["HTTP_X_REQUEST_ID"]} if "HTTP_X_REQUEST_ID" in environ else {}
    amounts = {"credits": int(query.get("reserve", ["10"])[0])}
    return Ask(tenant=environ.get("HTTP_X_ORG", ""), action="job", amounts=amounts, **named)


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Says nothing."""


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("listen")
    parser.add_argument("holdgate")
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name, type=Path)
    chosen = parser.parse_args()
    tls = Tls(chosen.ca, chosen.cert, chosen.key) if chosen.ca else None
    host, _, port = chosen.listen.rpartition(":")
    with Quota(chosen.holdgate, policy="golden", tls=tls) as quota:
        app = WsgiQuota(work, quota, ask)
        with make_server(host, int(port), app, ThreadingServer, Quiet) as server:
            print(f"gateway on {host}:{server.server_port}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
