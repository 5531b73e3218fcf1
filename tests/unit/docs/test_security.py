"""Promises of the security page: each names tests that exist."""

from __future__ import annotations

import re

import pytest

from dev.paths import ROOT

PAGE = ROOT / "docs" / "security.md"


def promises() -> list[tuple[int, list[str]]]:
    """Return the number and the tests of each promise."""
    rows = re.findall(r"^\| (\d+) \| .* \| (`tests/.*`) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(int(number), re.findall(r"`([^`]+)`", tests)) for number, tests in rows]


def test_promises_are_numbered_in_order() -> None:
    numbers = [number for number, _ in promises()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 20


@pytest.mark.parametrize("test", [test for _, tests in promises() for test in tests])
def test_tests_of_a_promise_exist(test: str) -> None:
    path, _, name = test.partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), f"{path} has no {name}"


def test_threats_name_promises_that_exist() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Threats")[1].split("## Promises")[0]
    named = {
        int(number) for group in re.findall(r"\(([^)]*\d[^)]*)\)", section) for number in re.findall(r"\d+", group)
    }
    assert named
    assert named <= {number for number, _ in promises()}
