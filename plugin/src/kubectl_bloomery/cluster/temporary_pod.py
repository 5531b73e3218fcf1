"""Pods that run during one command of the plugin."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubectl_bloomery.cluster.kubectl import Kubectl, Manifest
from kubectl_bloomery.errors import CommandError

if TYPE_CHECKING:
    from rich.console import Console

START_TIMEOUT_SECONDS = 300
LIFETIME_SECONDS = 1800
"""After this time a pod ends by itself if the command could not delete it."""
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""Annotation of a pod: the container in which ``kubectl exec`` runs, also if others inject one before it."""
_POLL_SECONDS = 0.5
_FATAL_REASONS = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImagePullBackOff")


@contextmanager
def run_pod(kubectl: Kubectl, pod: Manifest, console: Console) -> Iterator[None]:
    """Run a pod during the block, and delete it at the end, also after an error.

    Raises:
        CommandError: the pod does not start; carries the reason.
    """
    name = pod["metadata"]["name"]
    try:
        with console.status(f"Starting the pod {name}"):
            kubectl.run("create", "--filename=-", stdin=json.dumps(pod))
            _wait_until_running(kubectl, name)
        yield
    finally:
        # A failure to delete the pod must neither hide the first error nor discard the result.
        try:
            kubectl.run("delete", "pod", name, "--ignore-not-found", "--wait=false")
        except CommandError as error:
            console.print(f"The pod {name} cannot be deleted, and ends by itself: {error}", markup=False)


def _wait_until_running(kubectl: Kubectl, name: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        status = kubectl.get("pod", name)["status"]
        if status.get("phase") == "Running":
            return
        reason = _waiting_reason(status)
        if status.get("phase") == "Failed" or reason.startswith(_FATAL_REASONS) or time.monotonic() > deadline:
            raise CommandError(f"The pod {name} does not start: {reason or 'its status has no reason'}.")
        time.sleep(_POLL_SECONDS)


def _waiting_reason(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message")))).rstrip(".")
    conditions = [item for item in status.get("conditions", []) if item["status"] == "False" and "message" in item]
    return next((str(item["message"]).rstrip(".") for item in conditions), str(status.get("message", "")))
