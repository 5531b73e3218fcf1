"""Promotions: what counts while a model is judged, and what is tried again."""

from __future__ import annotations

import time
import unicodedata
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bloomery_trainer.config import Promotion
from bloomery_trainer.errors import Unavailable
from bloomery_trainer.publish.comparison import Comparison
from bloomery_trainer.publish.promotion import Candidate, by_name, promote, remembered
from bloomery_trainer.publish.registry import retry_for

POLICY = Promotion.model_validate({"alias": "champion", "betterThanCurrent": True})
CANDIDATE = Candidate(name="flowers", version="2", metric="top1", value=0.92, data={})


class Registry:
    """A registry of MLflow with one alias."""

    def __init__(self, version: str) -> None:
        self.version = version

    def get_model_version_by_alias(self, *_: str) -> Any:
        return SimpleNamespace(version=self.version, tags={}, run_id=None)

    def set_registered_model_alias(self, _name: str, _alias: str, version: str) -> None:
        self.version = version


def accuracy(champion: float) -> Comparison:
    return Comparison(value=0.92, other=champion, low=0.0, high=0.2, p_value=0.0)


def test_champion_that_came_while_another_was_judged_is_judged_too() -> None:
    registry = Registry("1")

    def judge(version: Any, metric: str) -> tuple[Comparison, str]:
        champions = {"1": 0.9, "3": 0.97}
        registry.version = "3"
        return accuracy(champions[version.version]), "test"

    result = promote(cast(Any, registry), POLICY, CANDIDATE, judge)

    assert (registry.version, result["moved"]) == ("3", False)
    assert "champion stays version 3: its top1 is 0.9700" in result["message"]


def test_store_that_is_away_decides_nothing() -> None:
    registry, tries = Registry("1"), list[str]()

    def judge(version: Any, metric: str) -> tuple[Comparison, str]:
        tries.append(version.version)
        if len(tries) == 1:
            raise Unavailable("StoreUnavailable", "the store does not answer")
        return accuracy(0.9), "test"

    result = retry_for(60, lambda: promote(cast(Any, registry), POLICY, CANDIDATE, judge))

    assert (registry.version, result["moved"], tries) == ("2", True, ["1", "1"])


def test_time_of_an_action_is_no_time_of_an_outage() -> None:
    tries: list[float] = []

    def act() -> str:
        tries.append(time.monotonic())
        if len(tries) == 1:
            time.sleep(1.5)  # longer than an outage may last
            raise ConnectionResetError
        return "done"

    assert retry_for(1.2, act) == "done"
    with pytest.raises(ConnectionResetError):
        retry_for(0.5, lambda: tries.clear() or act())


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_classes_of_a_champion_match_in_any_unicode_form(form: Any) -> None:
    known = tuple(unicodedata.normalize(form, name) for name in ("thé", "café"))
    assert by_name(np.array([[0.25, 0.75]], np.float32), known, ("café", "thé")).tolist() == [[0.75, 0.25]]


def test_a_promotion_tried_again_runs_each_model_once() -> None:
    calls: list[tuple[str, str]] = []
    comparison = Comparison(value=0.9, other=0.8, low=0.0, high=0.2, p_value=0.1)

    def judge(version: Any, metric: str) -> tuple[Comparison, str]:
        calls.append((version.version, metric))
        return comparison, "test"

    again = remembered(judge)
    first, second = (cast(Any, SimpleNamespace(version=number)) for number in ("1", "2"))

    assert [again(first, "top1"), again(first, "top1"), again(second, "top1")] == [(comparison, "test")] * 3
    assert calls == [("1", "top1"), ("2", "top1")]
