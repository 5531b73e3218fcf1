"""Rules for images and classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from bloomery_model import EXTENSIONS, ImageError, open_image, to_grey
from bloomery_model.file_names import file_extension
from bloomery_trainer.class_names import find_similar_names
from bloomery_trainer.config import Rules
from bloomery_trainer.errors import BadData
from bloomery_trainer.prepare.fingerprint import Fingerprint, compute_fingerprint
from bloomery_trainer.prepare.odd_pictures import Issue, find_issues

FEW_IMAGES = 100
"""Images of a class under which there is a warning."""

MAX_READ_BYTES = 256 * 1024 * 1024
"""Size up to which a file is read when the rules are not checked."""

_EXTENSION_BY_FORMAT = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "WEBP": "webp",
}  # fmt: skip

_MIN_PICTURE_SIDE = 40
"""Pixels of the shorter side from which fingerprints and issues are computed."""

_NAMED_CLASSES = 5
_WARNED_CLASSES = 10
_NAMED_PATTERNS = 5


class CheckedImage(NamedTuple):
    """An image that keeps the rules.

    Attributes:
        extension: of the content's format (``jpg``, ``png``, …).
        fingerprint: of its picture.
        issues: what is odd about its picture, with scores.
    """

    extension: str
    fingerprint: Fingerprint
    issues: Mapping[Issue, float]


class Violation(NamedTuple):
    """The rule that an image breaks: a CamelCase reason, and a sentence."""

    reason: str
    detail: str


def check_listing(path: str, size: int, rules: Rules) -> Violation | None:
    """Check the rules that need only the file's name and size."""
    extension = file_extension(path)
    allowed = rules.formats if rules.check else tuple(EXTENSIONS)
    # Without an extension, the content decides.
    if extension and extension not in allowed:
        return Violation("Format", f"the name ends in .{extension}")
    max_bytes = rules.max_bytes if rules.check else MAX_READ_BYTES
    if size > max_bytes:
        return Violation("TooManyBytes", f"{size} bytes, more than {max_bytes}")
    return None


def check_content(data: bytes, rules: Rules, *, has_extension: bool = True) -> CheckedImage | Violation:
    """Check the header, then, if that keeps the rules, decode every pixel.

    Args:
        data: the file's bytes.
        rules: for images.
        has_extension: whether the file's name says that it is an image.

    Returns:
        What is known of the image, or the rule that it breaks.
    """
    try:
        image = open_image(data)
        violation = _check_header(image, rules) if rules.check else None
        if violation is not None:
            return violation
        extension = _EXTENSION_BY_FORMAT[image.format or ""]
        # The decoder of training and serving, on fewer pixels: at an eighth of its size, a JPEG is still read whole.
        grey = to_grey(image, min_side=max(_MIN_PICTURE_SIDE, min(image.size) // 8))
    except ImageError as error:
        if error.code == "NotAnImage" and not has_extension:
            return Violation("Format", "the name has no extension, and the content is no image")
        return _violation_of(error)
    pixels = np.asarray(_shrink(grey))
    return CheckedImage(extension, compute_fingerprint(pixels), find_issues(pixels))


def _shrink(picture: Image.Image) -> Image.Image:
    """Return a picture whose shorter side has 40 to 80 pixels, if it has as many."""
    factor = min(picture.size) // _MIN_PICTURE_SIDE
    return picture.reduce(factor) if factor > 1 else picture


def check_classes(counts: Mapping[str, int], ignored: Mapping[str, Mapping[str, int]], rules: Rules) -> None:
    """Check the number of classes and the number of images of each.

    Args:
        counts: usable images of each class.
        ignored: number of ignored images of each class and reason.
        rules: the limits.

    Raises:
        BadData: there are too few or too many classes, or a class has too few images.
    """
    if len(counts) < rules.min_classes:
        present = f"only the class {next(iter(counts))!r}" if len(counts) == 1 else f"{len(counts)} classes"
        raise BadData("TooFewClasses", f"{present} was found; at least {rules.min_classes} classes are needed")
    if not rules.check:
        return
    if len(counts) > rules.max_classes:
        raise BadData("TooManyClasses", f"there are {len(counts)} classes; rules.maxClasses allows {rules.max_classes}")
    small = [name for name, count in sorted(counts.items()) if count < rules.min_images_per_class]
    if small:
        named = ", ".join(_describe_class(name, counts[name], ignored.get(name, {})) for name in small[:_NAMED_CLASSES])
        more = f" and {len(small) - _NAMED_CLASSES} more classes" if len(small) > _NAMED_CLASSES else ""
        raise BadData(
            "TooFewImages",
            f"{named}{more}; a class needs at least {rules.min_images_per_class} (rules.minImagesPerClass)",
        )


def class_warnings(counts: Mapping[str, int]) -> list[str]:
    """Return sentences about few images of a class, and about names that may be of one class."""
    warnings = []
    small = [(name, count) for name, count in sorted(counts.items()) if count < FEW_IMAGES]
    if small:
        named = ", ".join(f"{name!r} ({count})" for name, count in small[:_WARNED_CLASSES])
        more = f" and {len(small) - _WARNED_CLASSES} more" if len(small) > _WARNED_CLASSES else ""
        warnings.append(f"under {FEW_IMAGES} images a class is hard to learn: {named}{more}")
    return [*warnings, *_similarity_warnings(find_similar_names(counts))]


def _similarity_warnings(groups: Sequence[Sequence[str]]) -> list[str]:
    """Return a sentence about names that may be of one class."""
    if not groups:
        return []
    listed = groups[:_WARNED_CLASSES]
    named = "; ".join(", ".join(map(repr, group)) for group in listed)
    more = f" and {len(groups) - _WARNED_CLASSES} more groups" if len(groups) > _WARNED_CLASSES else ""
    renames = {name: _plainest(group) for group in listed for name in group if name != _plainest(group)}
    block = json.dumps(renames, ensure_ascii=False)
    return [
        f"class names differ only in case, spaces or invisible characters: {named}{more}; "
        f"to make each group one class, add to spec, rename: {block}"
    ]


def _plainest(names: Sequence[str]) -> str:
    """Return the name with the fewest characters, such as spaces at its end; of these the last, in lower case."""
    return min(reversed(names), key=len)


def exclusion_warnings(unused_patterns: Sequence[str]) -> list[str]:
    """Return a sentence about patterns of ``exclude`` that match no file."""
    if not unused_patterns:
        return []
    named = ", ".join(map(repr, unused_patterns[:_NAMED_PATTERNS]))
    more = f" and {len(unused_patterns) - _NAMED_PATTERNS} more" if len(unused_patterns) > _NAMED_PATTERNS else ""
    return [f"exclude: no image fits {named}{more}"]


def _check_header(image: Image.Image, rules: Rules) -> Violation | None:
    short, long = sorted(image.size)
    allowed = {EXTENSIONS[extension] for extension in rules.formats}
    if (image.format or "").replace("MPO", "JPEG") not in allowed:
        return Violation("Format", f"the content is {image.format}")
    if short < rules.min_side:
        return Violation("TooSmall", f"{image.width}×{image.height}, the shorter side is under {rules.min_side}")
    if long > rules.max_side:
        return Violation("TooLarge", f"{image.width}×{image.height}, the longer side is over {rules.max_side}")
    if long > rules.max_aspect_ratio * short:
        return Violation("AspectRatio", f"{image.width}×{image.height}, more than {rules.max_aspect_ratio:g}:1")
    return None


def _violation_of(error: ImageError) -> Violation:
    if error.code == "ImageTooLarge":
        return Violation("TooLarge", str(error))
    if error.code == "ImageTooNarrow":
        return Violation("AspectRatio", str(error))
    if error.code == "DamagedImage":
        return Violation("Corrupt", f"cannot be decoded: {error}")
    return Violation("Corrupt", str(error))


def _describe_class(name: str, count: int, ignored: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(ignored).most_common())
    return f"class {name!r} has {count} image{'s'[: count != 1]}" + (f" ({reasons} ignored)" if reasons else "")
