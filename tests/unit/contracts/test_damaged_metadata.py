"""Preparation, training and the model server give the same answer for images whose metadata is damaged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bloomery_model import ImageError, Preprocess, decode, to_rgb
from bloomery_serving.api.errors import RequestError, image_request_error
from bloomery_serving.image_file import FORMATS, ImageFile, Limits, open_file
from bloomery_trainer.config import Rules
from bloomery_trainer.data.decoders import CenterCropDecoder, ResizeDecoder
from bloomery_trainer.prepare.rules import Violation, check_content
from tests.unit.model_format.damaged import Damaged, damaged_files

# Pillow warns of much of what is wrong.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMITS = Limits(bytes=10**7, pixels=10**7)
PREPROCESS = Preprocess.for_size(32)
NOT_SERVED = {"gif", "tif"}
MIN_READABLE = 0.8
"""Share of the files that can be decoded: a decoder that refuses all would agree with itself, too."""


def is_prepared(file: Damaged) -> bool:
    return not isinstance(check_content(file.data, Rules(check=False)), Violation)


def trained_pixels(file: Damaged) -> NDArray[np.uint8] | None:
    """Return what training and evaluation see; None if they refuse it."""
    try:
        whole = ResizeDecoder(PREPROCESS.resize, PREPROCESS.min_decode_side)(file.data)
        framed: NDArray[np.uint8] = CenterCropDecoder(PREPROCESS)(file.data).permute(1, 2, 0).numpy()
    except ImageError:
        return None
    assert PREPROCESS.resize <= min(whole.shape[1:]) <= PREPROCESS.min_decode_side
    return framed


def served_pixels(file: Damaged) -> NDArray[np.uint8] | RequestError:
    """Return what the server's model sees, or its answer."""
    try:
        image = to_rgb(open_file(ImageFile(file.name, file.data), LIMITS), min_side=PREPROCESS.min_decode_side)
    except ImageError as error:
        return image_request_error(file.name, error)
    return PREPROCESS.pixels(image)


@pytest.mark.parametrize("files", [500, pytest.param(5000, marks=pytest.mark.extended)])
def test_damaged_metadata_gets_the_same_answer_everywhere(files: int) -> None:
    assert not {"TIFF", "GIF"} & set(FORMATS)
    readable = 0
    for file in damaged_files(files, seed=files):
        pixels, answer = trained_pixels(file), served_pixels(file)
        assert is_prepared(file) == (pixels is not None), file.name
        if file.name.rpartition(".")[2] in NOT_SERVED:
            assert isinstance(answer, RequestError) and answer.code == "NotAnImage", file.name
        elif pixels is None:
            assert isinstance(answer, RequestError) and answer.status == 400, file.name
        else:
            assert not isinstance(answer, RequestError), (file.name, answer)
            assert np.array_equal(answer, pixels), file.name
        readable += pixels is not None
    assert readable / files > MIN_READABLE


def test_damaged_metadata_decides_about_nothing_but_the_orientation() -> None:
    pixels: dict[str, set[bytes]] = {}
    for file in damaged_files(1000, seed=2):
        try:
            image = decode(file.data)
        except ImageError:
            continue
        ways = (image.transpose(method) for method in Image.Transpose)
        # The same for all eight orientations of a picture.
        pixels.setdefault(file.name.rpartition(".")[2], set()).add(min(way.tobytes() for way in (image, *ways)))
    assert {extension: len(pictures) for extension, pictures in pixels.items()} == dict.fromkeys(
        ("jpg", "png", "webp", "tif", "gif"), 1
    )
