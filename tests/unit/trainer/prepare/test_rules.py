"""The rules for the content of an image."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from bloomery_model.file_names import file_extension
from bloomery_trainer.config import Rules
from bloomery_trainer.prepare.rules import Violation, check_content


def test_too_narrow_image_is_a_violation_without_rules() -> None:
    line = io.BytesIO()
    Image.new("L", (1, 4000)).save(line, "PNG")
    broken = check_content(line.getvalue(), Rules(check=False))
    assert broken == Violation("AspectRatio", "1×4000, more than 100:1")


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a/1.JFIF", "jfif"), ("1.jpg?w=300", "jpg"), ("1.JPG?v=1.5", "jpg"), ("x.jpeg!small", "jpeg"),
        ("1.webp#top", "webp"), ("1.png%3Fw=3", "png"), ("why?.jpg", "jpg"), ("1.jpg.txt", "txt"),
        ("1.jpg_original", "jpg_original"), ("a.b/1", ""), ("1", ""), ("1.jpg.", ""), ("what?", ""),
    ],
)  # fmt: skip
def test_extension_is_read_in_front_of_query_and_fragment(name: str, extension: str) -> None:
    assert file_extension(name) == extension


def test_text_named_as_an_image_is_corrupt() -> None:
    assert check_content(b"hello", Rules(check=False)) == Violation("Corrupt", "not an image that can be read")
