"""A user's shell, in which the commands of a page are run as they stand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dev import demo
from dev.paths import target
from testing.dev_cluster import Kubectl
from tools.docs_blocks import Block

PLUGIN = (sys.executable, "-m", "kubectl_bloomery")
"""The command of ``kubectl bloomery``, in this environment."""


@dataclass(frozen=True)
class Shell:
    """A folder, and an environment whose kubectl is at work in one namespace."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def of(cls, namespace: str, folder: Path, **more: str) -> Shell:
        """A shell in a folder; ``more`` are further environment variables."""
        kubeconfig = folder / ".kubeconfig"
        kubeconfig.write_text(Kubectl("default")("config", "view", "--raw", "--flatten"))
        environment = target().environment | {"KUBECONFIG": str(kubeconfig)} | more
        context = ["config", "set-context", "--current", f"--namespace={namespace}"]
        subprocess.run([demo.tool("kubectl"), *context], env=environment, check=True, capture_output=True)
        return cls(folder, environment)

    def run(self, block: Block) -> str:
        """Run a block of commands; return what it printed."""
        command = ["bash", "-c", f"set -euo pipefail\n{block.text}"]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
        return done.stdout
