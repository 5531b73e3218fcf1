"""Shared parts of our HTML pages: names are escaped, nothing comes from outside, pictures are embedded."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from bloomery_model import decode


def environment(package: str, *, folder: str = ".", **filters: Callable[..., Any]) -> Environment:
    """Load the templates that lie in a folder of a package, with filters of its own."""
    templates = Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= filters
    return templates


def thumbnail(data: bytes, *, side: int) -> str:
    """Make a data URI of a small JPEG, at most ``side`` pixels, from an image file; raise what decoding raises."""
    return data_uri(decode(data, min_side=side), side=side)


def data_uri(image: Image.Image, *, side: int) -> str:
    """Make a data URI of an image as a small JPEG, at most ``side`` pixels."""
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
