"""The shares of the split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_trainer.prepare.split import share_of
from tests.unit.trainer.prepare.results import read_manifest

Prepare = Callable[..., Any]


@pytest.mark.feature("D2")
@pytest.mark.parametrize(("images", "held_out"), [(633, 126), (898, 179), (641, 128), (699, 139), (799, 159)])
def test_share_of_each_flower_class_is_rounded_down(images: int, held_out: int) -> None:
    assert share_of(images, 0.2) == held_out


def test_share_is_exact_in_decimals() -> None:
    assert share_of(100, 0.29) == 29


@pytest.mark.feature("D13")
def test_test_set_is_held_out_beside_the_validation_set(prepare: Prepare, flowers: Path) -> None:
    split = {"validation": 0.2, "test": 0.1, "seed": 3}
    result = prepare(flowers, split=split)

    assert result.message["classes"][0] == {"name": "roses", "train": 18, "validation": 5, "test": 2}
    assert set(read_manifest(result.message)["shards"]) == {"train", "validation", "test"}
