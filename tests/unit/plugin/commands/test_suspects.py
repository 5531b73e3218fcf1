"""The command ``suspects``: choice of suspects, and the corrected spec."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.commands.suspects import choose, correct_spec
from kubectl_bloomery.errors import CommandError

pytestmark = pytest.mark.feature("D16")


def suspect(number: int, *, image: str = "", action: str = "Move") -> dict[str, Any]:
    name = image or f"roses/{number}.jpg"
    return {"number": number, "dataset": "flowers", "image": name, "likely": "tulips", "action": action}


SUSPECTS = [suspect(number) for number in range(1, 11)]


@pytest.mark.parametrize(
    ("first", "only", "numbers"),
    [(3, None, [1, 2, 3]), (3, "2,9-10", [2, 9, 10]), (99, "4", [4]), (2, " 1 , 3", [1, 3])],
)
def test_suspects_are_chosen_by_count_or_by_number(first: int, only: str | None, numbers: list[int]) -> None:
    assert [entry["number"] for entry in choose(SUSPECTS, first=first, only=only)] == numbers


@pytest.mark.parametrize(
    ("only", "words"),
    [("1,x", "--only must be numbers"), ("11", "numbers 1 to 10"), ("0-3", "numbers"), ("5-2", "numbers")],
)
def test_numbers_of_no_suspect_are_refused(only: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        choose(SUSPECTS, first=100, only=only)


def test_corrections_join_what_the_dataset_has_already() -> None:
    spec = {
        "exclude": ["tulips/old*.jpg"],
        "move": [{"image": "roses/1.jpg", "class": "daisy"}, {"image": "roses/9.jpg", "class": "daisy"}],
    }
    fields = correct_spec(spec, [suspect(1), suspect(2, image="roses/a[1].jpg", action="Exclude")])

    assert fields["move"] == [{"image": "roses/1.jpg", "class": "tulips"}, {"image": "roses/9.jpg", "class": "daisy"}]
    assert fields["exclude"] == ["tulips/old*.jpg", "roses/a[[]1].jpg"]


def test_corrections_that_are_there_already_change_nothing() -> None:
    spec = correct_spec({}, [suspect(1), suspect(2, action="Exclude")])

    assert correct_spec(spec, [suspect(1), suspect(2, action="Exclude")]) == {}
