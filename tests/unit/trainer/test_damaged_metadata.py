"""Photos with damaged metadata, from the folder that people bring to the trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.model_format.damaged import refused_files, turned_files, upright_files

# Pillow warns of some of what is wrong.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CLASSES = 2
IMAGES = 20


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((48, 40))


def ignored_files(message: dict[str, Any]) -> dict[str, str]:
    manifest = Path(str(message["uri"]).removeprefix("file://")) / "manifest.json"
    ignored = json.loads(manifest.read_text(encoding="utf-8"))["ignored"]
    return {Path(entry["key"]).name: f"{entry['reason']}: {entry['detail']}" for entry in ignored}


def odd_files(label: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the files of a class that can be read, and those that cannot."""
    image = picture(1000 * label + 999)
    return upright_files(image) | turned_files(image), refused_files(image)


@pytest.mark.feature("D2")
def test_photos_with_damaged_metadata_are_prepared_and_trained(
    prepare: Callable[..., Any], train: Callable[..., Any], tmp_path: Path
) -> None:
    for label in range(CLASSES):
        folder = tmp_path / "photos" / f"class {label}"
        folder.mkdir(parents=True)
        for number in range(IMAGES):
            picture(1000 * label + number).save(folder / f"{number}.png")
        odd, broken = odd_files(label)
        for name, data in (odd | broken).items():
            (folder / name).write_bytes(data)
    prepared = prepare(tmp_path / "photos")

    assert prepared.code == 0
    ignored = ignored_files(prepared.message)
    assert set(ignored) == set(broken)
    assert all(reason.startswith("Corrupt: ") and len(reason) > len("Corrupt: ") for reason in ignored.values())
    assert prepared.message["images"] == CLASSES * (IMAGES + len(odd))

    dataset = {"name": "photos", "version": prepared.message["version"], "uri": prepared.message["uri"]}
    trained = train(datasets=[dataset])
    assert (trained.code, trained.message.get("error")) == (0, None)
