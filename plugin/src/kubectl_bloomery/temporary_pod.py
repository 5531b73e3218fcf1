"""Pods that run for as long as a command of the plugin needs them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubectl_bloomery.kubectl import CommandError, Kubectl, Manifest

if TYPE_CHECKING:
    from rich.console import Console

START_SECONDS = 300
LIFETIME_SECONDS = 1800
"""A pod that nobody could delete ends by itself after that long."""
_HOPELESS = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImagePullBackOff")


@contextmanager
def running(kubectl: Kubectl, pod: Manifest, console: Console) -> Iterator[None]:
    """Run a pod for as long as the block takes, however it ends.

    Raises:
        CommandError: it does not start; says why.
    """
    name = pod["metadata"]["name"]
    try:
        with console.status(f"Starting the pod {name}"):
            kubectl.run("create", "--filename=-", stdin=json.dumps(pod))
            _wait_until_running(kubectl, name)
        yield
    finally:
        # What went wrong before is told all the same, and what was done is kept.
        try:
            kubectl.run("delete", "pod", name, "--ignore-not-found", "--wait=false")
        except CommandError as error:
            console.print(f"The pod {name} is left behind, and ends by itself: {error}", markup=False)


def _wait_until_running(kubectl: Kubectl, name: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        status = kubectl.get("pod", name)["status"]
        if status.get("phase") == "Running":
            return
        why = _why_not(status)
        if status.get("phase") == "Failed" or why.startswith(_HOPELESS) or time.monotonic() > end:
            raise CommandError(f"The pod {name} does not start: {why or 'nothing says why'}.")
        time.sleep(0.5)


def _why_not(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message")))).rstrip(".")
    conditions = [item for item in status.get("conditions", []) if item["status"] == "False" and "message" in item]
    return next((str(item["message"]).rstrip(".") for item in conditions), str(status.get("message", "")))
