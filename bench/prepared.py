"""Makes a dataset version by the trainer's ``prepare`` command, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_trainer(config: dict[str, Any], folder: Path, *, processors: str | None = None) -> dict[str, Any]:
    """Run one command of the trainer and return its termination message.

    Args:
        config: its configuration.
        folder: takes the configuration and the message.
        processors: the processors to use, in the form of taskset (``0``, ``0,1``); None for all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, message = folder / f"{config['kind']}.json", folder / f"{config['kind']}-message.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "bloomery_trainer", str(config["kind"]), str(path)]
    if processors is not None:
        command = ["taskset", "--cpu-list", processors, *command]
    environment = {**os.environ, "TERMINATION_LOG": str(message), "BLOOMERY_PORT": "0"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{config['kind']} ended with {process.returncode}: {process.stderr[-2000:]}")
    document: dict[str, Any] = json.loads(message.read_text(encoding="utf-8"))
    return document


def prepared(raw: Path, store: Path, **changes: Any) -> dict[str, Any]:
    """Prepare a folder of class folders; return an entry of ``datasets`` for a training."""
    config = {
        "kind": "prepare",
        "name": "bench",
        "source": {"uri": f"file://{raw}"},
        "output": {"uri": f"file://{store}"},
        **changes,
    }
    message = run_trainer(config, store.parent / "prepare")
    return {"name": "bench", "version": message["version"], "uri": message["uri"]}
