"""Runs kubectl as a subprocess, which brings the user's kubeconfig, contexts and credentials."""

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

from kubectl_bloomery.errors import CommandError

Manifest = Mapping[str, Any]
DATASETS = "datasets.bloomery.dev"
TRAINING_JOBS = "trainingjobs.bloomery.dev"
SERVICES = "inferenceservices.bloomery.dev"
BATCH_PREDICTIONS = "batchpredictions.bloomery.dev"
_KINDS = {
    "datasets": "Dataset",
    "trainingjobs": "TrainingJob",
    "retrainings": "Retraining",
    "inferenceservices": "InferenceService",
    "batchpredictions": "BatchPrediction",
}
_NOISE = re.compile(r"command terminated with exit code|[EWIF]\d{4} ")
_NOT_FOUND = re.compile(r'Error from server \(NotFound\): (\w+)\S* "(.+)" not found')
_UNKNOWN_KIND = re.compile(r"""the server doesn't have a resource type "(\w+)""")
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
_MAX_BROKEN_WATCHES = 5
"""Consecutive watches that may break without an event before the command fails."""
_MAX_WATCH_DELAY_SECONDS = 5
_MAX_ERROR_LINES = 3


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one namespace of one cluster."""

    namespace: str | None = None
    context: str | None = None

    def run(self, *args: str, stdin: str | None = None) -> str:
        """Run a command and return its output.

        Raises:
            CommandError: the command failed; carries kubectl's message.
        """
        with self.start(*args, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL) as process:
            stdout, stderr = process.communicate(stdin.encode() if stdin is not None else None)
        if process.returncode:
            raise CommandError(clean_error(stderr.decode(errors="replace")))
        return stdout.decode()

    def get(self, kind: str, name: str) -> Manifest:
        """Return an object.

        Raises:
            CommandError: the object does not exist, or the user may not read it.
        """
        manifest: Manifest = json.loads(self.run("get", kind, name, "--output=json"))
        return manifest

    def list_objects(self, kinds: str, *args: str) -> list[Manifest]:
        """Return the objects of some kinds."""
        items: list[Manifest] = json.loads(self.run("get", kinds, *args, "--output=json"))["items"]
        return items

    def select(self, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """Return the objects that carry all the labels."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        return self.list_objects(kind, f"--selector={selector}")

    def names(self, kind: str, *args: str) -> list[str]:
        """Return the names of all objects of a kind."""
        return [word.partition("/")[2] for word in self.run("get", kind, "--output=name", *args).split()]

    def watch(self, kind: str, name: str) -> Iterator[Manifest]:
        """Yield an object now and after each change, until the caller stops.

        Raises:
            CommandError: the object does not exist or was deleted, or the API server no longer answers.
        """
        broken, has_events = 0, False
        while True:
            args = ("get", kind, name, "--watch", "--output-watch-events", "--output=json")
            with _terminate_at_exit(self.start(*args)) as process:
                assert process.stdout is not None and process.stderr is not None
                for line in process.stdout:
                    event, broken, has_events = json.loads(line), 0, True
                    if event["type"] == "DELETED":
                        raise CommandError(f"{name} was deleted.")
                    yield event["object"]
                stderr = process.stderr.read().decode(errors="replace")
                failed = process.wait() != 0
            # An API server ends each watch after a while, and breaks it when it restarts.
            broken += 1
            if failed and (not has_events or broken > _MAX_BROKEN_WATCHES or _NOT_FOUND.search(stderr)):
                raise CommandError(clean_error(stderr))
            time.sleep(min(broken - 1, _MAX_WATCH_DELAY_SECONDS))

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """Forward a port of ``service/NAME`` or ``pod/NAME`` during the block, and yield its local URL.

        Raises:
            CommandError: no pod is behind the target, or the user may not reach it.
        """
        with _terminate_at_exit(self.start("port-forward", target, f":{port}")) as process:
            assert process.stdout is not None and process.stderr is not None
            match = _FORWARDING.search(process.stdout.readline().decode(errors="replace"))
            if match is None:
                process.terminate()
                raise CommandError(clean_error(process.stderr.read().decode(errors="replace")))
            # kubectl prints a line for each connection: read them, or they fill the pipe.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{match[1]}"

    def start(self, *args: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a command whose output is read while it runs.

        Raises:
            CommandError: kubectl is not installed.
        """
        program = shutil.which("kubectl")
        if program is None:
            raise CommandError("kubectl is not on the PATH.")
        options = {"--namespace": self.namespace, "--context": self.context}
        scope = [f"{option}={value}" for option, value in options.items() if value]
        command = [program, *scope, *args]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextmanager
def _terminate_at_exit(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.terminate()


def clean_error(stderr: str) -> str:
    """Return the error message in kubectl's output, without log lines and prefixes."""
    lines = [line for line in stderr.strip().splitlines() if line and not _NOISE.match(line)]
    text = "\n".join(lines[-_MAX_ERROR_LINES:])
    if (match := _UNKNOWN_KIND.search(text)) is not None:
        kind = _KINDS.get(match[1], match[1])
        return f"This cluster knows no {kind}: Bloomery's chart is not installed there."
    if (match := _NOT_FOUND.fullmatch(text)) is not None and match[1] in _KINDS:
        return f"There is no {_KINDS[match[1]]} {match[2]!r} in this namespace; -n names another one."
    return re.sub(r"^(error: |Error from server (\(\w+\): )?)", "", text) or "kubectl failed."
