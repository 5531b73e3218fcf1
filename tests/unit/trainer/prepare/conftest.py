"""Images with label texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WriteImage = Callable[..., None]


@pytest.fixture
def labelled(tmp_path: Path, write_image: WriteImage) -> Path:
    """Pairs of n.jpg and n.txt: 20 of one class, 20 of another."""
    folder = tmp_path / "labelled"
    for number in range(40):
        write_image(folder / f"{number}.jpg", seed=number)
        label = "美食/凉皮" if number < 20 else "roses"
        (folder / f"{number}.txt").write_text(label, encoding="utf-8")
    return folder
