"""What the guides put behind a gateway: answers on port 8081, and says what `?used=N` says it used."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Work(BaseHTTPRequestHandler):
    """The work that costs something; X-Quota-Hold, where the gateway sends it, is who may settle it."""

    def do_GET(self) -> None:
        """Works."""
        if hold := self.headers.get("x-quota-hold"):
            print(f"hold {hold}", flush=True)
        body = b"the work\n"
        self.send_response(200)
        for used in parse_qs(urlsplit(self.path).query).get("used", []):
            self.send_header("x-tokens-used", used)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", 8081), Work).serve_forever()
