"""Random requests to a real model server: an answer or an end of the connection, and nothing is harmed by it."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.component.serving.conftest import RED, Server, picture, start_process, write_model
from tests.fuzz.worker import forget_peak, peak_bytes

MEMORY_BYTES = 2 * 1024**3
"""Memory limit of a model server's pod, where its service sets none."""
_SECONDS = 60.0
_PAUSE_SECONDS = 2.0
"""Silence after which the sender closes its side, as behind a head that is not complete; shorter behind an answer."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_BUG = "The server failed on this request"
"""Words of the answer to an error that nobody has foreseen."""


class ServingTarget:
    """A model server, replaced by another once it has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Server | None = None
        self._log_bytes = 0

    def attempt(self, request: Callable[[random.Random], bytes], chance: random.Random, folder: Path) -> list[str]:
        """Send a random request; return what is wrong with the answer, or with the server behind it."""
        data = request(chance)
        (folder / "request.bin").write_bytes(data)
        server = self._running()
        forget_peak(server.process.pid)
        answer = _exchange(server, data)
        return [*answer_problems(answer), *self._server_problems(server)]

    def stop(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.stop()
            self._server.client.close()
            self._server = None

    def _running(self) -> Server:
        if self._server is None:
            model = self._folder / "model"
            model.mkdir(exist_ok=True)
            write_model(model)
            self._server = start_process(
                self._folder, {"model_uri": f"file://{model}", "model_version": "4", "body_seconds": "1"}
            )
            self._server.wait_until_ready()
            self._log_bytes = 0
        return self._server

    def _server_problems(self, server: Server) -> list[str]:
        if server.process.poll() is not None:
            self._server = None
            return [f"the server ended with exit code {server.process.returncode}"]
        problems = []
        peak = peak_bytes(server.process.pid)
        if peak > MEMORY_BYTES:
            problems.append(f"the server took {peak / 2**20:.0f} MiB")
        answer = server.client.post("/predict", content=picture(RED))
        if answer.status_code != 200 or answer.json()["label"] != "red":
            problems.append(f"the next request, a good one, got {answer.status_code}: {answer.text[:200]}")
        log = server.log.read_bytes()
        new, self._log_bytes = log[self._log_bytes :], len(log)
        if b"Traceback" in new:
            problems.append(f"in the log: {new.decode(errors='replace').strip().splitlines()[-1]}")
        return problems


def _exchange(server: Server, data: bytes) -> bytes | str:
    """Send bytes; return all of the answer, or a sentence if it does not end."""
    with server.connect() as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.sendall(data)
        except TimeoutError:
            return f"the server read nothing for {_SECONDS:.0f} s"
        except OSError:
            pass  # it has refused the rest, and its answer may be there
        received, has_ended = _receive(connection, pause=_PAUSE_SECONDS)
        if not has_ended:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            rest, has_ended = _receive(connection, pause=_SECONDS)
            received += rest
    return received if has_ended else f"no end of the answer within {_SECONDS:.0f} s: {received[:200]!r}"


def _receive(connection: socket.socket, *, pause: float) -> tuple[bytes, bool]:
    """Return the bytes up to the end of the connection or up to a pause, and whether it has ended."""
    received = b""
    connection.settimeout(pause)
    try:
        while part := connection.recv(2**16):
            received += part
            connection.settimeout(min(pause, 0.2))
    except TimeoutError:
        return received, False
    except OSError:
        pass  # the end of a connection with bytes that nobody has read
    return received, True


def answer_problems(answer: bytes | str) -> list[str]:
    """Return what is wrong with the bytes of an answer; none at all are the end of the connection."""
    if isinstance(answer, str):
        return [answer]
    problems = []
    statuses = [int(status) for status in _STATUS.findall(answer)]
    if answer and not statuses:
        problems.append(f"no answer of HTTP: {answer[:200]!r}")
    wrong = [status for status in statuses if not (status == 100 or 200 <= status < 300 or 400 <= status < 501)]
    if wrong or _BUG.encode() in answer:
        problems.append(f"status {statuses}: {answer[-300:]!r}")
    head, _, body = answer.partition(b"\r\n\r\n")
    if len(statuses) == 1 and statuses[0] >= 400 and b"content-type: application/json" in head.lower() and body:
        error = json.loads(body).get("error")
        if not (error.get("message") if isinstance(error, dict) else error):
            problems.append(f"a refusal without a sentence: {body[:200]!r}")
    return problems
