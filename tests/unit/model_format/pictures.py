"""Picture files of every kind that the decoder takes, made of one noisy picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

NOISE = np.random.default_rng(7).integers(0, 256, (90, 130, 3), np.uint8)
PICTURE = Image.fromarray(NOISE).resize((260, 180), Image.Resampling.BICUBIC)
LARGE = PICTURE.resize((2600, 1800), Image.Resampling.BICUBIC)
LOSSY = ("JPEG", "WebP", "CMYK")
"""Words in the names of those whose pixels depend on the version of a codec."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def with_orientation(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    """Return a file whose EXIF names an orientation; the pixels are stored as they are."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif)


def _transparent_palette() -> bytes:
    palette = PICTURE.quantize(16)
    return encoded(palette, "PNG", transparency=3)


PICTURES = {
    "PNG": encoded(PICTURE, "PNG"),
    "JPEG": encoded(PICTURE, "JPEG"),
    "JPEG on its side": with_orientation(PICTURE, 6),
    "large JPEG": encoded(LARGE, "JPEG"),
    "large JPEG on its side": with_orientation(LARGE, 6),
    "large grey JPEG": encoded(LARGE.convert("L"), "JPEG"),
    "BMP": encoded(PICTURE, "BMP"),
    "WebP": encoded(PICTURE, "WEBP"),
    "GIF": encoded(PICTURE.quantize(64), "GIF"),
    "TIFF": encoded(PICTURE, "TIFF"),
    "TIFF on its side": with_orientation(PICTURE, 8, "TIFF"),
    "palette": encoded(PICTURE.convert("P"), "PNG"),
    "palette with a transparent colour": _transparent_palette(),
    "alpha": encoded(PICTURE.convert("RGBA"), "PNG"),
    "grey with alpha": encoded(PICTURE.convert("LA"), "PNG"),
    "CMYK JPEG": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "grey": encoded(PICTURE.convert("L"), "PNG"),
    "black and white": encoded(PICTURE.convert("1"), "PNG"),
    "16 bit grey": encoded(Image.fromarray(np.asarray(PICTURE.convert("L"), np.uint16) * 257), "PNG"),
    "small": encoded(PICTURE.resize((40, 33), Image.Resampling.BICUBIC), "PNG"),
}
