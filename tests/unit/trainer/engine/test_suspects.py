"""Training images with suspected labels."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bloomery_model import Preprocess
from bloomery_trainer.data.decoders import CenterCropDecoder, normalise
from bloomery_trainer.engine.head import compute_features, find_classifier
from bloomery_trainer.engine.head_training import TrainingFeatures
from bloomery_trainer.engine.suspects import MAX_IMAGES, find_suspects
from bloomery_trainer.models import precision
from bloomery_trainer.models.presets import PRESETS

pytestmark = pytest.mark.feature("D16")

SHARED = Path(__file__).parents[4].parent / "shared/data"
FLOWERS = Path(os.environ.get("FLOWERS") or SHARED / "flowers")
WEIGHTS = Path(os.environ.get("WEIGHTS") or SHARED / "mobilenet_v2_imagenet_backbone.pt")
NO_ROSES = {
    "roses/8590442797_07fa2141c0_n.jpg",  # a sign with the word
    "roses/5212877807_a3ddf06a7c_n.jpg",  # a gerbera
    "roses/15312360171_57bde98799_n.jpg",  # a cat before tulips
}
"""Pictures in the folder roses. Its riders with cowboy hats are not found: they are of a parade of which the folder has
many pictures, so that a classifier takes parades for roses.
"""

needs_flowers = pytest.mark.skipif(
    not (FLOWERS.is_dir() and WEIGHTS.is_file()),
    reason=f"there are no flower photographs at {FLOWERS} or no weights at {WEIGHTS}: set FLOWERS and WEIGHTS",
)


def clusters(images: list[int], *, spread: float = 0.5) -> tuple[TrainingFeatures, NDArray[np.int64]]:
    """Features around one centre for each class; `images` has the number of each class."""
    labels = np.repeat(np.arange(len(images)), images)
    noise = np.random.default_rng(1).normal(scale=spread, size=(len(labels), 16))
    values = (np.random.default_rng(7).normal(size=(len(images), 16))[labels] + noise).astype(np.float32)
    return TrainingFeatures(indices=np.arange(len(labels)), values=values), labels


def test_wrong_labels_are_found_with_the_right_class() -> None:
    features, truth = clusters([60, 60, 60])
    labels, wrong = truth.copy(), [3, 70, 130]
    labels[wrong] = [1, 2, 0]
    suspects, examined = find_suspects(features, labels, limit=MAX_IMAGES, seed=0)

    assert examined == 180
    assert {suspect.index for suspect in suspects[:3]} == set(wrong)
    for suspect in suspects[:3]:
        assert (suspect.given_class, suspect.likely_class) == (labels[suspect.index], truth[suspect.index])
        assert suspect.given_score < 0.5 < suspect.likely_score
    scores = [suspect.given_score for suspect in suspects]
    assert scores == sorted(scores)


def test_correct_labels_of_separate_classes_are_not_suspected() -> None:
    features, labels = clusters([40, 40], spread=0.1)

    assert find_suspects(features, labels, limit=MAX_IMAGES, seed=0) == ((), 80)


def test_positions_are_those_among_all_training_images() -> None:
    features, labels = clusters([60, 60])
    labels[5] = 1
    # The images at even positions are unreadable, and have no features.
    padded = np.zeros(240, np.int64)
    padded[1::2] = labels
    shifted = TrainingFeatures(indices=np.arange(1, 240, 2), values=features.values)
    suspects, _ = find_suspects(shifted, padded, limit=MAX_IMAGES, seed=0)

    assert suspects[0].index == 11


def test_large_sets_are_sampled_and_tiny_classes_left_out() -> None:
    features, labels = clusters([200, 200, 3])

    assert find_suspects(features, labels, limit=MAX_IMAGES, seed=0)[1] == 400
    assert find_suspects(features, labels, limit=100, seed=0)[1] <= 100
    assert find_suspects(features, np.zeros_like(labels), limit=MAX_IMAGES, seed=0) == ((), 0)


class Photographs(NamedTuple):
    features: TrainingFeatures
    labels: NDArray[np.int64]
    keys: list[str]


@cache
def photographs() -> Photographs:
    """The training photographs, with features of the backbone that the weights are of."""
    paths = sorted((FLOWERS / "train").glob("*/*.jpg"))
    names = sorted({path.parent.name for path in paths})
    preset, preprocess = PRESETS["mobilenet-v2"], Preprocess.for_size(224)
    model = preset.build(len(names), image_size=224).to(memory_format=torch.channels_last)
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True), strict=False)
    decode = CenterCropDecoder(preprocess)
    batches = (
        normalise(torch.stack([decode(path.read_bytes()) for path in paths[start : start + 32]]), preprocess)
        for start in range(0, len(paths), 32)
    )
    classifier = find_classifier(model, preset.head(image_size=224))
    autocast = precision.reduced(torch.device("cpu"), side=224)
    values = compute_features(
        model, classifier, (batch.contiguous(memory_format=torch.channels_last) for batch in batches), autocast=autocast
    )
    labels = np.array([names.index(path.parent.name) for path in paths])
    features = TrainingFeatures(indices=np.arange(len(paths)), values=values)
    return Photographs(features, labels, [f"{path.parent.name}/{path.name}" for path in paths])


@needs_flowers
@pytest.mark.extended
def test_flipped_labels_of_photographs_lead_the_suspects() -> None:
    features, truth, _ = photographs()
    random = np.random.default_rng(0)
    flipped = random.choice(len(truth), round(0.05 * len(truth)), replace=False)
    labels = truth.copy()
    labels[flipped] = (labels[flipped] + random.integers(1, 5, len(flipped))) % 5
    suspects, _ = find_suspects(features, labels, limit=MAX_IMAGES, seed=0)

    hits = sum(suspect.index in set(flipped.tolist()) for suspect in suspects[:150])
    assert hits >= 110, f"{hits} of the first 150 suspects are flipped; {len(flipped)} labels are"


@needs_flowers
@pytest.mark.extended
def test_pictures_without_roses_are_suspected_among_the_roses() -> None:
    features, labels, keys = photographs()
    suspects, _ = find_suspects(features, labels, limit=MAX_IMAGES, seed=0)

    assert {keys[suspect.index] for suspect in suspects[:60]} >= NO_ROSES
