"""The agreement of trainer and model server: image decoding, preprocessing, model folders and their stores."""

from __future__ import annotations

from bloomery_model.decode import (
    EXTENSIONS,
    MAX_ASPECT,
    READABLE_FORMATS,
    ImageError,
    Pixels,
    decode,
    decoding_bytes,
    open_image,
    to_grey,
    to_rgb,
)
from bloomery_model.preprocess import Preprocess, PreprocessError, Tensor, resize_shorter

__all__ = [
    "EXTENSIONS",
    "MAX_ASPECT",
    "READABLE_FORMATS",
    "ImageError",
    "Pixels",
    "Preprocess",
    "PreprocessError",
    "Tensor",
    "decode",
    "decoding_bytes",
    "open_image",
    "resize_shorter",
    "to_grey",
    "to_rgb",
]
