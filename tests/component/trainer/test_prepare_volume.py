"""The ``prepare`` command on a volume whose files do not all belong to the trainer's user."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testing.permissions import obey_permissions_after_exec


def write_image(path: Path, number: int) -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 40)).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


@pytest.mark.feature("O6")
def test_volume_with_closed_folders_and_files_is_prepared_without_them(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    for number in range(50):
        write_image(
            volume / "photos" / ("Train" if number >= 10 else "Val") / "ab"[number % 2] / f"{number}.png", number
        )
    write_image(volume / "lost+found" / "#1" / "1.png", 1)
    write_image(volume / "photos" / "Train" / "b" / "private" / "1.png", 1)
    closed = [volume / "lost+found", volume / "photos/Train/b/private", volume / "photos/Train/a/20.png"]
    for path in closed:
        path.chmod(0)
    config = {
        "kind": "prepare",
        "name": "volume",
        "source": {"uri": f"file://{volume}"},
        "rules": {"minImagesPerClass": 5},
        "output": {"uri": f"file://{tmp_path}/store"},
    }
    result = run(tmp_path, config)

    assert result["classes"] == [
        {"name": "a", "train": 19, "validation": 5, "test": 0},
        {"name": "b", "train": 20, "validation": 5, "test": 0},
    ]
    ignored = (tmp_path / "store" / result["version"] / "ignored.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in ignored] == [
        {
            "key": "photos/Train/a/20.png",
            "reason": "Unreadable",
            "detail": "it cannot be read: Permission denied",
        },
        {
            "key": "photos/Train/b/private/",
            "reason": "Unreadable",
            "detail": "the folder cannot be listed: Permission denied",
        },
    ]


def run(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Run the command as a process of its own; return its termination message."""
    path, message = folder / "config.json", folder / "message.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SOURCE_"))}
    subprocess.run(
        [sys.executable, "-m", "bloomery_trainer", "prepare", str(path)],
        env={**own, "TERMINATION_LOG": str(message), "BLOOMERY_PORT": "0"},
        preexec_fn=obey_permissions_after_exec,
        check=True,
        timeout=300,
    )
    document: dict[str, Any] = json.loads(message.read_bytes())
    return document
