"""The trainer evaluates with the same numbers that the server sees: else the scores would differ."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from bloomery_serving import images as serving
from bloomery_trainer import images as trainer

LIMITS = serving.Limits(bytes=10**7, pixels=10**7)
NOISE = np.random.default_rng(7).integers(0, 256, (90, 130, 3), np.uint8)
PICTURE = Image.fromarray(NOISE).resize((260, 180), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image = PICTURE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


PICTURES = {
    "PNG": encoded(PICTURE, "PNG"),
    "JPEG": encoded(PICTURE, "JPEG"),
    "JPEG on its side": turned(),
    "large JPEG": encoded(PICTURE.resize((2600, 1800), Image.Resampling.BICUBIC), "JPEG"),
    "large JPEG on its side": turned(PICTURE.resize((2600, 1800), Image.Resampling.BICUBIC)),
    "large grey JPEG": encoded(PICTURE.resize((2600, 1800), Image.Resampling.BICUBIC).convert("L"), "JPEG"),
    "BMP": encoded(PICTURE, "BMP"),
    "WebP": encoded(PICTURE, "WEBP"),
    "palette": encoded(PICTURE.convert("P"), "PNG"),
    "alpha": encoded(PICTURE.convert("RGBA"), "PNG"),
    "CMYK": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "grey": encoded(PICTURE.convert("L"), "PNG"),
    "16 bit grey": encoded(Image.fromarray(np.asarray(PICTURE.convert("L"), np.uint16) * 257), "PNG"),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("side", [32, 224])
def test_training_and_serving_see_the_same_numbers(name: str, side: int) -> None:
    frame = trainer.Preprocess.for_size(side)
    served = serving.Preprocess.model_validate_json(json.dumps(frame.document()))
    seen = served.tensor(serving.decode(serving.ImageFile(name, PICTURES[name]), LIMITS, at_least=served.enough))
    pixels = frame.pixels(trainer.decode(PICTURES[name], at_least=frame.enough)).astype(np.float32) / 255
    expected = ((pixels - np.float32(frame.mean)) / np.float32(frame.std)).transpose(2, 0, 1)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["large JPEG", "large JPEG on its side", "large grey JPEG"])
def test_a_photo_that_is_decoded_smaller_looks_the_same(name: str) -> None:
    frame = trainer.Preprocess.for_size(224)
    seen = frame.pixels(trainer.decode(PICTURES[name], at_least=frame.enough)).astype(int)
    whole = frame.pixels(trainer.decode(PICTURES[name])).astype(int)
    assert np.abs(seen - whole).mean() < 1


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    half = np.full((40, 40), 128 * 257, np.uint16)
    assert np.asarray(trainer.decode(encoded(Image.fromarray(half), "PNG")))[0, 0].tolist() == [128, 128, 128]
