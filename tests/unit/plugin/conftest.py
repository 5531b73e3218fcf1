"""Fixtures that run the plugin as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Run = subprocess.CompletedProcess[str]
Bloomery = Callable[..., Run]
Pictures = Callable[..., Path]


@pytest.fixture
def bloomery(tmp_path: Path) -> Bloomery:
    """Run the plugin in an empty folder; ``without`` names packages that are not installed there."""

    def run(*args: str | Path, without: tuple[str, ...] = (), **environment: str) -> Run:
        hidden = "".join(f"sys.modules[{name!r}] = None; " for name in without)
        program = f"import sys; {hidden}from kubectl_bloomery.main import main; main()"
        process_environment = os.environ | {"COLUMNS": "120", "TERM": "dumb"} | environment
        command = [sys.executable, "-c", program, *map(str, args)]
        return subprocess.run(
            command, env=process_environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Write a folder with a number of images for each class, all of different colours."""

    def write(folder: str = "pictures", *, size: tuple[int, int] = (40, 40), **classes: int) -> Path:
        for number, (name, count) in enumerate(classes.items()):
            (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
            for image in range(count):
                colour = (image, number * 40, 100)
                Image.new("RGB", size, colour).save(tmp_path / folder / name / f"{image}.png")
        return tmp_path / folder

    return write
