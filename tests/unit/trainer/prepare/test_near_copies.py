"""Near copies: found among pictures that were changed a little, and few strangers with them."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Image as Picture

from bloomery_trainer.config import Rules
from bloomery_trainer.prepare.fingerprint import Fingerprint
from bloomery_trainer.prepare.near_copies import MAX_DISTANCE, NearPair, find_near_copies, find_similar_hashes
from bloomery_trainer.prepare.rules import CheckedImage, check_content

Change = Callable[[Picture], Picture]

CHANGES: dict[str, tuple[Change, int]] = {
    "resized": (lambda image: image.resize((image.width * 6 // 10, image.height * 6 // 10)), 85),
    "recompressed": (lambda image: image, 60),
    "cropped": (lambda image: crop(image, 0.04), 85),
    "brightened": (lambda image: image.point(lambda value: min(255, int(value * 1.1))), 85),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 85),
}
"""By name, the change of a photograph, and the quality with which it is saved."""

LISTED_FLOWERS = [
    ("dandelion/284497233_c19801752c.jpg", "dandelion/284497199_93a01f48f6.jpg"),
    ("sunflowers/2588234269_c4bfd0d8b9_n.jpg", "sunflowers/2588453601_66f2a03cca_n.jpg"),
    ("tulips/12916135413_dafcf3089e_n.jpg", "tulips/12916441224_2ed63596f8_n.jpg"),
    ("roses/13279526615_a3b0059bec.jpg", "roses/13342823005_16d3df58df_n.jpg"),
]
"""Some pairs of the same scene in train/ and validation/."""


def crop(image: Picture, share: float) -> Picture:
    left, top = round(share * image.width), round(share * image.height)
    return image.crop((left, top, image.width - left, image.height - top))


def save_jpeg(image: Picture, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def take_fingerprint(data: bytes) -> Fingerprint:
    image = check_content(data, Rules(check=False))
    assert isinstance(image, CheckedImage)
    return image.fingerprint


def find_pairs(fingerprints: Sequence[Fingerprint]) -> list[NearPair]:
    hashes = np.array([fingerprint[:3] for fingerprint in fingerprints], dtype=np.uint64).T
    thumbnails = np.array([list(fingerprint.thumbnail) for fingerprint in fingerprints], dtype=np.uint8)
    return list(find_near_copies(hashes, lambda positions: thumbnails[list(positions)].reshape(-1, 16, 16)))


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    """The flower photographs in the folder that FLOWERS names, in train/ and validation/."""
    folder = os.environ.get("FLOWERS")
    if folder is None:
        pytest.skip("set FLOWERS to a folder of photographs")
    return sorted(Path(folder).rglob("*.jpg"))


@pytest.mark.feature("D14")
def test_search_finds_each_pair_of_similar_hashes_once() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 400, dtype=np.uint64)
    for position in range(200):
        flipped = sum(1 << int(bit) for bit in generator.choice(64, position % 9, replace=False))
        hashes[position] = hashes[200 + position] ^ np.uint64(flipped)
    other = generator.integers(0, 2**64, 400, dtype=np.uint64)
    other[7] = hashes[300]
    expected = {(position, 200 + position) for position in range(200) if position % 9 <= MAX_DISTANCE} | {
        (7, 100),
        (7, 300),
    }

    assert set(map(tuple, find_similar_hashes(hashes, other).tolist())) == expected


@pytest.mark.feature("D14")
def test_search_in_thousands_of_equal_hashes_is_bounded() -> None:
    hashes = np.zeros(5000, np.uint64)

    assert len(find_similar_hashes(hashes, hashes)) < 5000 * 200


@pytest.mark.feature("D14")
def test_pictures_without_contrast_are_no_near_copies() -> None:
    plain = [take_fingerprint(save_jpeg(Image.new("RGB", (100, 100), (value, 99, 99)), 90)) for value in (60, 61, 90)]

    assert find_pairs(plain) == []


@pytest.mark.feature("D14")
@pytest.mark.parametrize("kind", CHANGES)
def test_nine_of_ten_changed_photographs_are_found(photographs: list[Path], kind: str) -> None:
    change, quality = CHANGES[kind]
    chosen = random.Random(0).sample(photographs, 200)
    originals = [take_fingerprint(path.read_bytes()) for path in chosen]
    changed = [take_fingerprint(save_jpeg(change(Image.open(path).convert("RGB")), quality)) for path in chosen]
    pairs = {(pair.first, pair.other) for pair in find_pairs([*originals, *changed])}
    recall = sum((number, 200 + number) in pairs for number in range(200)) / 200
    print(f"{kind}: recall {recall:.3f}")

    assert recall >= 0.9


@pytest.mark.feature("D14")
def test_few_strangers_are_listed_among_all_photographs(photographs: list[Path]) -> None:
    """Hold the number of pairs: all of them were looked at, and one shows a daisy and a dandelion."""
    pairs = find_pairs([take_fingerprint(path.read_bytes()) for path in photographs])
    names = [
        tuple(f"{photographs[place].parent.name}/{photographs[place].name}" for place in pair[:2]) for pair in pairs
    ]
    strangers = [pair for pair in names if pair[0].partition("/")[0] != pair[1].partition("/")[0]]
    for pair, name in sorted(zip(pairs, names, strict=True), key=lambda item: item[0].similarity):
        print(pair.similarity, *name)

    assert {frozenset(pair) for pair in LISTED_FLOWERS} <= set(map(frozenset, names))
    # One of them is the exact copy with two labels.
    assert len(strangers) - 1 <= len(photographs) / 1000
    assert len(pairs) <= 30
