"""`make bench-training`: what is measured of datasets and training, in one run; its last line is one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

PARTS = {
    "loading": "bench.loading",
    "prepare": "bench.prepare",
    "distribution": "bench.distribution",
    "transfer": "bench.transfer",
}


def run(module: str) -> Any:
    """Runs one benchmark in a process of its own, its output shown, and returns the JSON of its last line."""
    lines = []
    with subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{module} ended with {process.returncode}")
    return json.loads(lines[-1])


def main() -> None:
    """Runs the named parts, or all."""
    wanted = sys.argv[1:] or list(PARTS)
    results: dict[str, Any] = {"processors": len(os.sched_getaffinity(0))}
    for name in wanted:
        print(f"— {name}", flush=True)
        results[name] = run(PARTS[name])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
