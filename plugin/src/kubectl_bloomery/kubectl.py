"""kubectl in a process of its own: it knows the user's kubeconfig, contexts and ways to log in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Manifest = Mapping[str, Any]
DATASETS = "datasets.bloomery.dev"
TRAINING_JOBS = "trainingjobs.bloomery.dev"
SERVICES = "inferenceservices.bloomery.dev"
_KINDS = {"datasets": "Dataset", "trainingjobs": "TrainingJob", "inferenceservices": "InferenceService"}
_NOISE = re.compile(r"command terminated with exit code|[EWIF]\d{4} ")
_NOT_FOUND = re.compile(r'Error from server \(NotFound\): (\w+)\S* "(.+)" not found')
_NO_KIND = re.compile(r"""the server doesn't have a resource type "(\w+)""")
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
_BROKEN_WATCHES = 5
"""Watches in a row that may break without any news before it is an error."""


class CommandError(Exception):
    """A command can not do what it was asked; the message is a sentence for its user."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl against one namespace of one cluster."""

    namespace: str | None = None
    context: str | None = None

    def run(self, *words: str, stdin: str | None = None) -> str:
        """Return what a command prints.

        Raises:
            CommandError: it failed; carries what it said.
        """
        with self.start(*words, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL) as process:
            out, said = process.communicate(stdin.encode() if stdin is not None else None)
        if process.returncode:
            raise CommandError(complaint(said.decode(errors="replace")))
        return out.decode()

    def get(self, kind: str, name: str) -> Manifest:
        """Return an object.

        Raises:
            CommandError: there is none, or it may not be read.
        """
        document: Manifest = json.loads(self.run("get", kind, name, "--output=json"))
        return document

    def select(self, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """Return the objects that carry all the labels."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        items: list[Manifest] = json.loads(self.run("get", kind, f"--selector={selector}", "--output=json"))["items"]
        return items

    def names(self, kind: str, *words: str) -> list[str]:
        """Return the names of all objects of a kind."""
        return [word.partition("/")[2] for word in self.run("get", kind, "--output=name", *words).split()]

    def watch(self, kind: str, name: str) -> Iterator[Manifest]:
        """Yield an object as it is, and again whenever it changes, until whoever asks has seen enough.

        Raises:
            CommandError: there is none, or it was deleted, or the API server does not answer any more.
        """
        broken, seen = 0, False
        while True:
            words = ("get", kind, name, "--watch", "--output-watch-events", "--output=json")
            with self._ended_with_block(self.start(*words)) as process:
                assert process.stdout is not None and process.stderr is not None
                for line in process.stdout:
                    event, broken, seen = json.loads(line), 0, True
                    if event["type"] == "DELETED":
                        raise CommandError(f"{name} was deleted.")
                    yield event["object"]
                said = process.stderr.read().decode(errors="replace")
                failed = process.wait() != 0
            # An API server ends each watch after a while; one that restarts breaks it.
            broken += 1
            if failed and (not seen or broken > _BROKEN_WATCHES or _NOT_FOUND.search(said)):
                raise CommandError(complaint(said))
            time.sleep(min(broken - 1, 5))

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """Give a local address that leads to a port of ``service/NAME`` or ``pod/NAME`` for as long as the block takes.

        Raises:
            CommandError: there is no pod behind it, or it may not be reached.
        """
        with self._ended_with_block(self.start("port-forward", target, f":{port}")) as process:
            assert process.stdout is not None and process.stderr is not None
            found = _FORWARDING.search(process.stdout.readline().decode(errors="replace"))
            if found is None:
                process.terminate()
                raise CommandError(complaint(process.stderr.read().decode(errors="replace")))
            # Later words would fill the pipe, as there is one for each connection.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{found[1]}"

    @staticmethod
    @contextmanager
    def _ended_with_block(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        with process:
            try:
                yield process
            finally:
                process.terminate()

    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a command whose output is read while it runs.

        Raises:
            CommandError: there is no kubectl.
        """
        program = shutil.which("kubectl")
        if program is None:
            raise CommandError("kubectl is not on the PATH.")
        where = {"--namespace": self.namespace, "--context": self.context}
        chosen = [f"{option}={value}" for option, value in where.items() if value]
        command = [program, *chosen, *words]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def complaint(said: str) -> str:
    """Return what matters of a failed command's words."""
    lines = [line for line in said.strip().splitlines() if line and not _NOISE.match(line)]
    text = "\n".join(lines[-3:])
    if (found := _NO_KIND.search(text)) is not None:
        kind = _KINDS.get(found[1], found[1])
        return f"This cluster knows no {kind}: Bloomery's chart is not installed there."
    if (found := _NOT_FOUND.fullmatch(text)) is not None and found[1] in _KINDS:
        return f"There is no {_KINDS[found[1]]} {found[2]!r} in this namespace; -n names another one."
    return re.sub(r"^(error: |Error from server (\(\w+\): )?)", "", text) or "kubectl failed."
