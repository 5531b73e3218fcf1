"""Progress of a batch prediction over HTTP: ``/progress`` as JSON, as the operator reads it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from bloomery_model.threaded_server import ThreadedServer
from bloomery_serving.batch.output import ShareRecord

logger = logging.getLogger(__name__)

_CLIENT_SECONDS = 10
_CACHE_SECONDS = 5.0
"""Age up to which the states of other processes are not read again."""

ReadOthers = Callable[[], Sequence[ShareRecord]]


class Progress:
    """Figures of all processes together, of which each can be asked."""

    def __init__(self, read_others: ReadOthers, processes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``read_others`` returns the states of the other processes, as far as they have begun."""
        self._read_others = read_others
        self._processes = processes
        self._clock = clock
        self._lock = threading.Lock()
        self._own: ShareRecord | None = None
        self._others: Sequence[ShareRecord] = ()
        self._read_at: float | None = None
        self._first: tuple[float, int] | None = None

    def update(self, record: ShareRecord) -> None:
        """Take the state of this process."""
        self._own = record

    def snapshot(self) -> dict[str, Any]:
        """Return the figures of all processes."""
        own = self._own
        if own is None:
            return {"stage": "listing"}
        with self._lock:
            now = self._clock()
            if self._read_at is None or now - self._read_at > _CACHE_SECONDS:
                self._others, self._read_at = self._read_others(), now
            records = (own, *self._others)
            done = sum(record.done for record in records)
            self._first = self._first or (now, done)
            seconds, gain = now - self._first[0], done - self._first[1]
            # Files count once their part is written: before the first one, the speed is not known, and not 0.
            rate = {"imagesPerSecond": round(gain / seconds, 1)} if gain > 0 and seconds > 0 else {}
        return {"stage": "predicting", **totals(records, self._processes), **rate}


def totals(records: Sequence[ShareRecord], processes: int) -> dict[str, Any]:
    """Return the sums of the shares that were begun.

    A source may change between the listings of two processes: once all have begun, the sum of their files is exact.
    """
    has_all = len(records) == processes
    ignored: Counter[str] = sum((Counter(record.ignored) for record in records), Counter())
    return {
        "images": sum(record.images for record in records),
        "ignored": dict(ignored.most_common()),
        "total": sum(record.files for record in records) if has_all else max(record.total for record in records),
    }


def serve_progress(progress: Progress, port: int) -> None:
    """Answer requests from a thread of its own, until the process ends."""
    try:
        server = _Server(port, _handler_class(progress))
    except OSError as error:
        logger.warning("port %d is not free (%s): progress is in this log only", port, error.strerror)
        return
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()


class _Server(ThreadedServer, HTTPServer):
    """The HTTP server."""


def _handler_class(progress: Progress) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            if self.path != "/progress":
                self.send_error(404)
                return
            body = json.dumps(progress.snapshot(), ensure_ascii=False).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Leave requests out of the log."""

    return Handler
