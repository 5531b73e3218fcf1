"""The policy of answers: by confidence, by precision, and by how familiar an image is."""

from __future__ import annotations

import numpy as np
import pytest

from bloomery_model.statistics import Statistics, parse_statistics
from bloomery_serving.answers import AnswerPolicy
from bloomery_serving.errors import ModelError
from bloomery_serving.model import ScoredImage
from bloomery_serving.settings import Settings

pytestmark = pytest.mark.feature("S17")

STATISTICS = parse_statistics(
    {
        "thresholds": {"precision": {"0.95": [0.6, None]}},
        "reference": {"predictions": [1, 1], "confidence": {"edges": [0.5], "counts": [0, 2]}, "leastEnergy": 2.0},
    },
    classes=2,
)


def policy(statistics: Statistics = STATISTICS, **settings: float) -> AnswerPolicy:
    return AnswerPolicy.of(Settings(model_uri="file:///model", **settings), statistics, classes=2)  # type: ignore[arg-type]


def image(score: float, energy: float | None = 9.0) -> ScoredImage:
    """An image of the first class."""
    return ScoredImage(np.asarray([score, 1 - score], np.float32), 0.0, energy)


def test_without_a_policy_every_image_is_answered() -> None:
    assert not policy().may_be_unknown
    assert not policy().is_unknown(image(0.51, energy=-100.0))


def test_a_score_that_equals_the_limit_is_answered() -> None:
    assert not policy(answer_min_confidence=0.7).is_unknown(image(0.7))
    assert policy(answer_min_confidence=0.7).is_unknown(image(0.69))


def test_a_precision_uses_the_limit_of_the_images_class() -> None:
    precise = policy(answer_precision=0.95)
    assert not precise.is_unknown(image(0.61))
    assert precise.is_unknown(image(0.59))
    assert precise.is_unknown(image(0.0)), "the second class never reached it"


@pytest.mark.parametrize("settings", [{"answer_precision": 0.95}, {"answer_min_confidence": 0.5}])
def test_a_sure_answer_about_an_unfamiliar_image_is_unknown(settings: dict[str, float]) -> None:
    assert policy(**settings).is_unknown(image(0.99, energy=1.9))
    assert not policy(**settings).is_unknown(image(0.99, energy=2.1))


def test_a_model_without_logits_or_reference_is_judged_by_its_scores() -> None:
    assert not policy(answer_min_confidence=0.5).is_unknown(image(0.99, energy=None))
    assert not policy(Statistics(), answer_min_confidence=0.5).is_unknown(image(0.99, energy=-5.0))


def test_a_precision_without_thresholds_is_refused_with_advice() -> None:
    with pytest.raises(ModelError, match="evaluateOnly") as refused:
        policy(Statistics(), answer_precision=0.95)
    assert refused.value.reason == "NoThresholds"


def test_both_limits_are_refused() -> None:
    with pytest.raises(ModelError, match="not both"):
        policy(answer_precision=0.95, answer_min_confidence=0.5)
