"""What the machine itself must have: Debian's packages and Go."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TextIO

from dev.stages import StageError, run
from dev.versions import DEBIAN_PACKAGES

_POLICY = Path("/usr/sbin/policy-rc.d")


def install(log: TextIO) -> None:
    """Install the Debian packages that are missing, without starting the services in them."""
    if shutil.which("go") is None:
        raise StageError("Go is missing: install Go 1.25 or newer (https://go.dev/dl) and put it on PATH")
    missing = [name for name in DEBIAN_PACKAGES if not _is_installed(name)]
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
        run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], log, env=environment)
    finally:
        if not had_policy:
            _POLICY.unlink(missing_ok=True)


def _is_installed(name: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${Status}", name]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout == "install ok installed"
