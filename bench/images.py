"""JPEG images for the benchmarks: crops of two photographs that scikit-learn carries, so nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZE = (500, 375)
"""Width and height in pixels, as the images of common photo sets have them."""


def write_photos(folder: Path, *, images: int, classes: int, seed: int = 0) -> None:
    """Writes `images` JPEG files into `classes` folders below `folder`."""
    generator = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(images):
        photo = photos[number % len(photos)]
        scale = generator.uniform(0.8, 1.0)
        width, height = round(SIZE[0] * scale), round(SIZE[1] * scale)
        left = int(generator.integers(0, photo.width - width))
        top = int(generator.integers(0, photo.height - height))
        path = folder / f"class{number % classes}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.crop((left, top, left + width, top + height)).resize(SIZE).save(path, quality=90)
