"""An S3 server with a canned answer, for the answers of stores that cannot be had here; it records requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """An answer: HEAD gets it without its body, as from any HTTP server."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CannedS3:
    """The server's URL, and the requests so far."""

    url: str
    requests: list[Request]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a Secret for this server, with others."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", **more}


def error_document(code: str, more: str = "") -> bytes:
    """Return the body of a store's error, in S3's form."""
    text = f"<Error><Code>{code}</Code><Message>no</Message>{more}<RequestId>1</RequestId></Error>"
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()


EMPTY_LISTING = Answer(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")


@contextmanager
def run_canned_s3(answer: Callable[[Request], Answer]) -> Iterator[CannedS3]:
    """Run the server until the block ends."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.append(Request(self.command, self.path, headers))
            reply = answer(requests[-1])
            self.send_response(reply.status)
            for name, value in {"ETag": '"1"', **reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

        def log_message(self, format: str, *args: object) -> None:
            """Suppress the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield CannedS3(f"http://127.0.0.1:{server.server_address[1]}", requests)
    finally:
        server.shutdown()
        server.server_close()
