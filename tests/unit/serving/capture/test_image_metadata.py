"""Removal of metadata: no place, camera, comment or thumbnail is left, and every pixel is."""

from __future__ import annotations

import io
import struct
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from bloomery_model import ImageError, decode, open_image
from bloomery_serving.capture.image_metadata import _png_chunks, strip_metadata

SECRETS = (b"secret-camera", b"secret-comment", b"secret-xmp", b"secret-tail", b"secret-thumbnail")


def pixels(size: tuple[int, int] = (60, 40)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x0110] = "secret-camera"
    block.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return block


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or pixels()).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_with_segments(data: bytes) -> bytes:
    """Add a thumbnail, a comment, XMP and a tail to a JPEG."""
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x>secret-xmp</x>"
    segments = (
        (0xFE, b"secret-comment"),
        (0xE1, xmp),
        (0xE0, b"JFXX\0\x10secret-thumbnail"),
        (0xED, b"Photoshop 3.0\0"),
    )
    added = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(text) + 2) + text for marker, text in segments)
    return data[:2] + added + data[2:] + b"secret-tail"


def png_info() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "secret-comment")
    info.add_itxt("XML:com.adobe.xmp", "secret-xmp", zip=False)
    return info


def files(orientation: int) -> dict[str, bytes]:
    block = exif(orientation)
    grey, cmyk = pixels().convert("L"), pixels().convert("CMYK")
    return {
        "JPEG": jpeg_with_segments(encoded("JPEG", exif=block, quality=90)),
        "JPEG progressive": jpeg_with_segments(encoded("JPEG", exif=block, progressive=True, subsampling=2)),
        "JPEG with restarts": jpeg_with_segments(encoded("JPEG", exif=block, restart_marker_blocks=1)),
        "JPEG grey": jpeg_with_segments(encoded("JPEG", grey, exif=block)),
        "JPEG CMYK": jpeg_with_segments(encoded("JPEG", cmyk, exif=block)),
        "MPO": encoded("MPO", exif=block, save_all=True, append_images=[pixels()]) + b"secret-tail",
        "PNG": encoded("PNG", exif=block, pnginfo=png_info()) + b"secret-tail",
        "PNG with a palette": encoded("PNG", pixels().quantize(16), exif=block, pnginfo=png_info(), transparency=3),
        "WEBP": encoded("WEBP", exif=block, xmp=b"secret-xmp", quality=80) + b"secret-tail",
        "WEBP with alpha": encoded("WEBP", pixels().convert("RGBA"), exif=block, lossless=True, xmp=b"secret-xmp"),
        "BMP": encoded("BMP") + b"secret-tail",
    }


@pytest.mark.feature("S19")
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", files(1))
def test_only_the_pixels_and_the_orientation_are_left(name: str, orientation: int) -> None:
    data = files(orientation)[name]
    kind = str(open_image(data).format)
    assert any(secret in data for secret in SECRETS)

    result = strip_metadata(data, kind=kind)

    assert not [secret for secret in SECRETS if secret in result]
    assert np.array_equal(np.asarray(decode(result)), np.asarray(decode(data)))
    assert decode(result).size == (decode(data).size)
    image = Image.open(io.BytesIO(result))
    image.load()
    assert set(image.getexif()) <= {0x0112}
    assert len(result) <= len(data)


@pytest.mark.feature("S19")
def test_orientation_behind_the_pixels_of_a_png_is_found_without_them() -> None:
    """ImageMagick writes EXIF as a text; and 25 megapixels would take 100 MB."""
    block = exif(6).tobytes()
    raw = f"\nexif\n{len(block):8}\n{block.hex()}\n"
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", raw, zip=True)
    packed = encoded("PNG", pnginfo=info)
    chunks = dict(_png_chunks(encoded("PNG", exif=block)))
    *others, end = [chunk for _, chunk in _png_chunks(encoded("PNG"))]
    behind = packed[:8] + b"".join([*others, chunks[b"eXIf"], end])
    for data in (packed, behind):
        with mock.patch.object(PngImagePlugin.PngImageFile, "load", autospec=True, side_effect=load_one_pixel):
            result = strip_metadata(data, kind="PNG")
        assert decode(result).size == decode(data).size == tuple(reversed(pixels().size))


def load_one_pixel(image: Image.Image) -> object:
    assert image.size == (1, 1)
    return ImageFile.ImageFile.load(image)


@pytest.mark.feature("S19")
def test_colour_profile_stays() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "WEBP"):
        result = strip_metadata(encoded(kind, icc_profile=profile, exif=exif(1)), kind=kind)
        assert Image.open(io.BytesIO(result)).info["icc_profile"] == profile


@pytest.mark.feature("S19")
def test_damaged_structure_is_an_error_and_no_file_with_metadata() -> None:
    data = bytearray(encoded("JPEG", exif=exif(1)))
    position = data.index(b"\xff\xdb")  # the tables for quantisation
    data[position + 2 : position + 4] = b"\0\x05"

    with pytest.raises(ImageError):
        strip_metadata(bytes(data), kind="JPEG")
