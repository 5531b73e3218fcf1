"""A small S3 server for any keys and any sizes, which a server over a file system could not hold."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "fuzz"
_PAGE_KEYS = 7
_ETAGS = ('"abc"', "abc", 'W/"abc"', "", None)


class FakeS3:
    """Lists and returns objects on loopback while the block lasts; its sizes and tags may be wrong."""

    def __init__(self, objects: Mapping[str, bytes], chance: random.Random) -> None:
        self._objects = {key: objects[key] for key in sorted(objects)}
        wrong = chance.random() < 0.3
        self._entries = [(key, _entry(key, data, chance, wrong=wrong)) for key, data in self._objects.items()]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeS3:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, target: str) -> tuple[int, bytes]:
        """Return the status and the body for the target of a GET."""
        parts = urlsplit(target)
        if "list-type=2" in parts.query:
            return 200, self._page(parse_qs(parts.query)).encode()
        data = self._objects.get(unquote(parts.path.removeprefix(f"/{BUCKET}/")))
        return (404, b"<Error><Code>NoSuchKey</Code></Error>") if data is None else (200, data)

    def _page(self, query: Mapping[str, list[str]]) -> str:
        prefix, start = query.get("prefix", [""])[0], int(query.get("continuation-token", ["0"])[0])
        entries = [entry for key, entry in self._entries if key.startswith(prefix)]
        end = start + _PAGE_KEYS
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < len(entries) else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><KeyCount>{len(entries[start:end])}</KeyCount>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{''.join(entries[start:end])}"
            "</ListBucketResult>"
        )


def _entry(key: str, data: bytes, chance: random.Random, *, wrong: bool) -> str:
    size = chance.choice((0, 1, len(data) + 1, 2**40)) if wrong and chance.random() < 0.2 else len(data)
    etag = chance.choice(_ETAGS) if wrong else '"abc"'
    tag = "" if etag is None else f"<ETag>{escape(etag)}</ETag>"
    # As S3 does, which lists characters that XML 1.0 forbids as references to them.
    name = "".join(f"&#x{ord(letter):x};" if ord(letter) < 32 else escape(letter) for letter in key)
    return (
        f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>{tag}"
        f"<Size>{size}</Size></Contents>"
    )


def _handler(store: FakeS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(send_body=True)

        def do_HEAD(self) -> None:
            self._answer(send_body=False)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, *, send_body: bool) -> None:
            status, body = store.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"abc"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if send_body:
                self.wfile.write(body)

    return Handler
