"""The rules for the content of an image."""

from __future__ import annotations

import io

from PIL import Image

from bloomery_trainer.config import Rules
from bloomery_trainer.prepare.rules import Violation, check_content


def test_too_narrow_image_is_a_violation_without_rules() -> None:
    line = io.BytesIO()
    Image.new("L", (1, 4000)).save(line, "PNG")
    broken = check_content(line.getvalue(), Rules(check=False))
    assert broken == Violation("AspectRatio", "1×4000, more than 100:1")


def test_text_named_as_an_image_is_corrupt() -> None:
    assert check_content(b"hello", Rules(check=False)) == Violation("Corrupt", "not an image that can be read")
