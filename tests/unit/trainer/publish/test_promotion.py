"""Comparisons of a promotion that is tried again because the registry did not answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from bloomery_trainer.publish.comparison import Comparison
from bloomery_trainer.publish.promotion import remembered


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
