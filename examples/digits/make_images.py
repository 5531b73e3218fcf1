"""Writes scikit-learn's handwritten digits as image folders: one for each class, and `unseen` for trying out.

    python make_images.py FOLDER

FOLDER/images/zero … nine hold what to train on (1,767 images), FOLDER/unseen three more images of each digit,
named after what they show. Needs scikit-learn and Pillow; nothing is downloaded.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 64
UNSEEN = 3


def main() -> None:
    """Writes all images below the folder given."""
    parser = argparse.ArgumentParser(description="Write scikit-learn's digits as image folders")
    parser.add_argument("folder", type=Path, help="where to; made if missing")
    folder = parser.parse_args().folder
    digits = load_digits()
    by_name = defaultdict(list)
    for pixels, digit in zip(digits.images, digits.target, strict=True):
        by_name[NAMES[digit]].append(picture(pixels))
    for name, pictures in by_name.items():
        trained, unseen = pictures[:-UNSEEN], pictures[-UNSEEN:]
        save(trained, folder / "images" / name, "{:03}.png")
        save(unseen, folder / "unseen", name + "-{}.png")
    print(f"{len(digits.target)} images below {folder}")


def picture(pixels: np.ndarray) -> Image.Image:
    """Enlarges the 8×8 grey values of a digit, 0 to 16, to an image of 64×64 pixels."""
    grey = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
    return grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


def save(pictures: list[Image.Image], folder: Path, name: str) -> None:
    """Saves the images below the folder, numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pictures, start=1):
        image.save(folder / name.format(number))


if __name__ == "__main__":
    main()
