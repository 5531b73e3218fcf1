"""Draws pictures to train on, where no photos are at hand: each class has a shape and colours of its own.

    python draw.py SET FOLDER [--layout folders] [--images 40] [--size 96] [--seed 0]

SET is `flowers` (daisy, dandelion, roses, sunflowers, tulips) or `food` (four dishes, with names such as 美食/凉皮).
The layouts:

    folders     FOLDER/roses/1.jpg
    split       FOLDER/train/roses/1.jpg, and every fifth below FOLDER/validation
    image-text  FOLDER/1.jpg and beside it FOLDER/1.txt, which holds the class
    zip         FOLDER/SET.zip with a folder for each class

The same arguments draw the same pictures; another seed draws others of the same classes, unseen ones to ask about.
Needs numpy and Pillow; nothing is downloaded.
"""

import argparse
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import flowers
import food
import numpy as np
from canvas import Canvas, Painter

SETS: Mapping[str, Mapping[str, Painter]] = {"flowers": flowers.CLASSES, "food": food.CLASSES}
FINER = 3
"""A picture is drawn this much larger and reduced, for smooth edges."""
Picture = tuple[str, int, bytes]
"""A class, the picture's number in it from 1, and the JPEG file."""
Files = Iterator[tuple[str, bytes]]
"""Paths below the folder, and what lies there."""


def main() -> None:
    """Writes the pictures and says how many there are."""
    chosen = arguments()
    pictures = list(draw(SETS[chosen.set], count=chosen.images, size=chosen.size, seed=chosen.seed))
    files = LAYOUTS["folders" if chosen.layout == "zip" else chosen.layout](pictures)
    for name, data in [(f"{chosen.set}.zip", packed(files))] if chosen.layout == "zip" else files:
        path = chosen.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(pictures)} pictures of {len(SETS[chosen.set])} classes are in {chosen.folder}")


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description="Draw pictures of several classes to train on")
    parser.add_argument("set", choices=sorted(SETS), help="what to draw")
    parser.add_argument("folder", type=Path, help="where to; made if missing")
    parser.add_argument("--layout", choices=[*LAYOUTS, "zip"], default="folders", help="default: folders")
    parser.add_argument("--images", type=int, default=40, help="pictures of each class, default 40")
    parser.add_argument("--size", type=int, default=96, help="width and height in pixels, default 96")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures; default 0")
    return parser.parse_args()


def draw(painters: Mapping[str, Painter], *, count: int, size: int, seed: int) -> Iterator[Picture]:
    """Draws `count` pictures of each class."""
    for place, (name, paint) in enumerate(painters.items()):
        for number in range(1, count + 1):
            canvas = Canvas(size * FINER, np.random.default_rng([seed, place, number]))
            paint(canvas)
            buffer = io.BytesIO()
            canvas.finished(size).save(buffer, "JPEG", quality=90)
            yield name, number, buffer.getvalue()


def folders(pictures: Iterable[Picture]) -> Files:
    """A folder for each class."""
    for name, number, data in pictures:
        yield f"{name}/{number}.jpg", data


def split(pictures: Iterable[Picture]) -> Files:
    """Class folders below `train`, and with every fifth picture below `validation`."""
    for name, number, data in pictures:
        yield f"{'train' if number % 5 else 'validation'}/{name}/{number}.jpg", data


def image_text(pictures: Iterable[Picture]) -> Files:
    """One folder with a text file beside each picture."""
    for count, (name, _, data) in enumerate(pictures, start=1):
        yield f"{count}.jpg", data
        yield f"{count}.txt", f"{name}\n".encode()


def packed(files: Files) -> bytes:
    """A zip file of them; its bytes depend on nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


LAYOUTS: Mapping[str, Callable[[Iterable[Picture]], Files]] = {
    "folders": folders,
    "split": split,
    "image-text": image_text,
}


if __name__ == "__main__":
    main()
