"""Debian packages that the machine itself must have."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TextIO

from dev.stages import run
from dev.versions import DEBIAN_PACKAGES

_POLICY = Path("/usr/sbin/policy-rc.d")


def install(log: TextIO) -> None:
    """Install the Debian packages that are missing, without starting the services in them."""
    # By program, not by package: a machine with Docker has its own containerd, which must stay.
    missing = [package for package, program in DEBIAN_PACKAGES.items() if shutil.which(program) is None]
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python3-venv")  # Debian's Python comes without it
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    had_policy = _POLICY.exists()
    if not had_policy:
        # Debian asks this script whether a package may start its service; 101 says no.
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        run(["apt-get", "update", "-q"], log, env=environment)
        run(["apt-get", "install", "-qy", "--no-remove", "--no-install-recommends", *missing], log, env=environment)
    finally:
        if not had_policy:
            _POLICY.unlink(missing_ok=True)
