"""What an image must be, and what a class must be, to be worth training on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from bloomery_model import EXTENSIONS, ImageError, open_image, to_rgb
from bloomery_trainer.config import Rules
from bloomery_trainer.errors import BadData

FEW_IMAGES = 100
"""Under so many images of a class there is a warning."""

LARGEST = 256 * 1024 * 1024
"""Bytes of a file that is read at all, whatever the rules say."""

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "WEBP": "webp"}


class Broken(NamedTuple):
    """The rule that an image breaks, and how."""

    reason: str
    detail: str


def by_listing(key: str, size: int, rules: Rules) -> Broken | None:
    """The rules that need no look inside the file."""
    ending = PurePosixPath(key).suffix.removeprefix(".").lower()
    allowed = rules.formats if rules.check else tuple(EXTENSIONS)
    if ending not in allowed:
        return Broken("Format", f"the name ends in .{ending}" if ending else "the name has no ending")
    most = rules.max_bytes if rules.check else LARGEST
    if size > most:
        return Broken("TooManyBytes", f"{size} bytes, more than {most}")
    return None


def by_content(data: bytes, rules: Rules) -> str | Broken:
    """Looks into the file: the header first, then, if all else holds, every pixel.

    Returns:
        The ending that fits the content ("jpg", "png", …), or the rule that it breaks.
    """
    try:
        image = open_image(data)
        broken = _header(image, rules) if rules.check else None
        if broken is not None:
            return broken
        extension = _EXTENSIONS[image.format or ""]
        # The decoder of training and serving, on fewer pixels: at an eighth of its size, a JPEG is still read whole.
        to_rgb(image, min_side=max(1, min(image.size) // 8))
    except ImageError as error:
        return _broken(error)
    return extension


def _broken(error: ImageError) -> Broken:
    if error.code == "ImageTooLarge":
        return Broken("TooLarge", str(error))
    if error.code == "ImageTooNarrow":
        return Broken("AspectRatio", str(error))
    if error.code == "DamagedImage":
        return Broken("Corrupt", f"cannot be decoded: {error}")
    return Broken("Corrupt", str(error))


def _header(image: Image.Image, rules: Rules) -> Broken | None:
    short, long = sorted(image.size)
    allowed = {EXTENSIONS[ending] for ending in rules.formats}
    if (image.format or "").replace("MPO", "JPEG") not in allowed:
        return Broken("Format", f"the content is {image.format}")
    if short < rules.min_side:
        return Broken("TooSmall", f"{image.width}×{image.height}, the shorter side is under {rules.min_side}")
    if long > rules.max_side:
        return Broken("TooLarge", f"{image.width}×{image.height}, the longer side is over {rules.max_side}")
    if long > rules.max_aspect_ratio * short:
        return Broken("AspectRatio", f"{image.width}×{image.height}, more than {rules.max_aspect_ratio:g}:1")
    return None


def refuse_bad_classes(counts: Mapping[str, int], ignored: Mapping[str, Mapping[str, int]], rules: Rules) -> None:
    """Raises BadData where there are too few or too many classes, or too few images of one.

    Args:
        counts: usable images of each class.
        ignored: of each class, how many images were ignored for which reason.
        rules: the limits.
    """
    if len(counts) < rules.min_classes:
        found = f"only the class {next(iter(counts))!r}" if len(counts) == 1 else f"{len(counts)} classes"
        raise BadData("TooFewClasses", f"{found} was found; at least {rules.min_classes} classes are needed")
    if not rules.check:
        return
    if len(counts) > rules.max_classes:
        raise BadData("TooManyClasses", f"there are {len(counts)} classes; rules.maxClasses allows {rules.max_classes}")
    few = [name for name, count in sorted(counts.items()) if count < rules.min_images_per_class]
    if few:
        named = ", ".join(_with_reasons(name, counts[name], ignored.get(name, {})) for name in few[:5])
        more = f" and {len(few) - 5} more classes" if len(few) > 5 else ""
        raise BadData(
            "TooFewImages",
            f"{named}{more}; a class needs at least {rules.min_images_per_class} (rules.minImagesPerClass)",
        )


def warnings(counts: Mapping[str, int], duplicates: int) -> list[str]:
    """Sentences about what is allowed but unwise."""
    found = []
    few = [(name, count) for name, count in sorted(counts.items()) if count < FEW_IMAGES]
    if few:
        named = ", ".join(f"{name!r} ({count})" for name, count in few[:10])
        more = f" and {len(few) - 10} more" if len(few) > 10 else ""
        found.append(f"under {FEW_IMAGES} images a class is hard to learn: {named}{more}")
    if duplicates:
        found.append(f"{duplicates} images are exact copies of another one")
    return found


def unused_exclusions(patterns: Sequence[str]) -> list[str]:
    """A sentence about patterns of `exclude` that nothing fitted."""
    if not patterns:
        return []
    more = f" and {len(patterns) - 5} more" if len(patterns) > 5 else ""
    return [f"exclude: no image fits {', '.join(map(repr, patterns[:5]))}{more}"]


def _with_reasons(name: str, count: int, ignored: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(ignored).most_common())
    return f"class {name!r} has {count} image{'s'[: count != 1]}" + (f" ({reasons} ignored)" if reasons else "")
