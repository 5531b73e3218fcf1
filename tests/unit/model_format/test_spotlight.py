"""Pictures that are bright where a network looked."""

from __future__ import annotations

import numpy as np
import pytest

from bloomery_model.spotlight import DIMMED, OUTLINE, heat_map, spotlight

pytestmark = pytest.mark.feature("T28")


def test_what_speaks_against_a_class_is_as_dark_as_what_says_nothing() -> None:
    heat = heat_map(np.array([[-3, 0], [1, 4]], np.float32))

    assert heat.tolist() == [[0, 0], [0.25, 1]]


def test_a_map_without_a_positive_place_is_all_dark() -> None:
    heat = heat_map(np.full((2, 2), -1, np.float32))
    picture = np.asarray(spotlight(np.full((8, 8, 3), 200, np.uint8), heat))

    assert (picture == 200 * DIMMED).all()


def test_the_hottest_part_has_an_outline_also_in_a_dark_photograph() -> None:
    heat = np.zeros((7, 7), np.float32)
    heat[2:5, 2:5] = 1
    picture = np.asarray(spotlight(np.zeros((224, 224, 3), np.uint8), heat))
    line = (picture == OUTLINE).all(axis=2)

    assert 300 < line.sum() < 1000
    assert not line[:50].any()
    assert not line[90:130, 90:130].any()


def test_the_picture_has_the_size_and_the_brightness_of_the_image() -> None:
    pixels = np.full((20, 30, 3), (200, 100, 0), np.uint8)
    picture = np.asarray(spotlight(pixels, np.array([[1, 0]], np.float32)))

    assert picture.shape == (20, 30, 3)
    assert picture[10, 1].tolist() == [200, 100, 0]
    assert picture[10, 28, 0] == pytest.approx(200 * DIMMED, abs=2)
