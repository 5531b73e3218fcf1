"""Decision for int8: only if it costs little accuracy and gains speed."""

from __future__ import annotations

import json

import pytest

from bloomery_trainer.models.quantize import ModelVariantStats, Quantization


def compared(*, top1: float = 0.94, milliseconds: float = 11.7, metric: str = "top1") -> Quantization:
    """An int8 form beside a float one of 0.94 and 38.3 ms."""
    return Quantization(
        metric=metric,
        split="validation",
        float32=ModelVariantStats(value=0.94, milliseconds=38.3),
        int8=ModelVariantStats(value=top1, milliseconds=milliseconds),
        calibration_images=128,
    )


@pytest.mark.parametrize("top1", [0.94, 0.96, 0.93])
def test_int8_is_kept_where_it_costs_a_point_at_most(top1: float) -> None:
    decision = compared(top1=top1)

    assert decision.is_better
    assert decision.sentence == (
        f"The model is served as int8, calibrated on 128 training images: top1 is {top1:.4f} instead of 0.9400 on the "
        "validation images, and an image takes 11.7 ms instead of 38.3 ms, 3.27 times as fast. This holds for "
        "processors; on a GPU, int8 is slower than float32."
    )


def test_int8_is_refused_where_it_costs_more_than_a_point() -> None:
    decision = compared(top1=0.929)

    assert not decision.is_better
    assert decision.sentence == (
        "The model is served as float32, though int8 was asked for: in int8, top1 is 0.9290 instead of 0.9400 on the "
        "validation images, more than 1 point less."
    )


@pytest.mark.parametrize("milliseconds", [37.0, 38.3, 60.0])
def test_int8_is_refused_where_it_is_hardly_faster_or_slower(milliseconds: float) -> None:
    decision = compared(milliseconds=milliseconds)

    assert not decision.is_better
    assert f"an image takes {milliseconds:.1f} ms instead of 38.3 ms, which is not at least 1.05" in decision.sentence


def test_both_reasons_are_reported_where_both_hold() -> None:
    sentence = compared(top1=0.5, milliseconds=50).sentence

    assert "more than 1 point less; and an image takes 50.0 ms" in sentence


def test_the_jobs_metric_is_what_int8_may_not_cost() -> None:
    decision = compared(top1=0.9, metric="balanced")

    assert not decision.is_better
    assert "balanced is 0.9000 instead of 0.9400 on the validation images" in decision.sentence
    assert decision.metrics()["quantization/int8_balanced"] == 0.9


@pytest.mark.parametrize("metric", ["top1", "f1"])
def test_a_decision_survives_being_written_down(metric: str) -> None:
    decision = compared(top1=1 / 3, metric=metric)

    assert Quantization.read(json.loads(json.dumps(decision.document()))) == decision
