"""Benchmarks that are parts of another: each in a process of its own, so that none finds what one before it left."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def run(module: str) -> Any:
    """Run one benchmark, its output shown, and return the JSON of its last line."""
    lines = []
    with subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{module} ended with {process.returncode}")
    return json.loads(lines[-1])
