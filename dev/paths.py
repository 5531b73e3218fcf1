"""Folders of the development environment, and the cluster that the commands use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".dev"
BIN = STATE / "bin"
LOGS = STATE / "logs"
PKI = STATE / "pki"
PIDS = STATE / "pids"
"""A file for each daemon that was started."""
VOLUMES = STATE / "volumes"
KUBECONFIG = STATE / "kubeconfig"

RUN = Path("/run/bloomery-dev")
"""Sockets and mounts: outside the checkout, as a socket's path may have 107 characters at most."""
CONTAINERD_SOCKET = RUN / "containerd.sock"
BUILDKIT_SOCKET = RUN / "buildkitd.sock"
OWNER = RUN / "checkout"
"""Names the checkout whose cluster runs on this machine."""


def pids_of(checkout: Path) -> Path:
    """Return where a checkout, perhaps another than this, notes its daemons."""
    return checkout / PIDS.relative_to(ROOT)


@dataclass(frozen=True)
class Target:
    """The cluster that commands talk to, and where its images come from."""

    kubeconfig: Path | None
    images: str
    tag: str
    is_own: bool

    @property
    def environment(self) -> dict[str, str]:
        """Environment for kubectl and helm."""
        # What kubectl remembers of an earlier cluster at the same address hides what a fresh one does not have yet.
        own = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(STATE / "kube-cache")} if self.kubeconfig else {}
        return {**os.environ, **own, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def image(self, name: str) -> str:
        """Return the full name of one of our images."""
        return f"{self.images}/{name}:{self.tag}"


def target() -> Target:
    """Return the cluster at hand: the development one, or with ``CLUSTER=current`` the user's own.

    Raises:
        SystemExit: the user's own cluster was asked for without saying where its images are.
    """
    if os.environ.get("CLUSTER", "dev") != "current":
        return Target(kubeconfig=KUBECONFIG, images="localhost/bloomery", tag="dev", is_own=True)
    registry = os.environ.get("REGISTRY", "").rstrip("/")
    if not registry:
        raise SystemExit("CLUSTER=current needs REGISTRY: the images' prefix, such as registry.example.com/bloomery.")
    return Target(kubeconfig=None, images=registry, tag=os.environ.get("TAG", "latest"), is_own=False)
