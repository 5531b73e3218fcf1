"""`make bench-training`: what is measured of datasets and training, in one run; its last line is one JSON object."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from bench.parts import run

PARTS = {
    "loading": "bench.loading",
    "prepare": "bench.prepare",
    "distribution": "bench.distribution",
    "transfer": "bench.transfer",
}


def main() -> None:
    """Runs the named parts, or all."""
    names = sys.argv[1:] or list(PARTS)
    results: dict[str, Any] = {"processors": len(os.sched_getaffinity(0))}
    for name in names:
        print(f"— {name}", flush=True)
        results[name] = run(PARTS[name])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
