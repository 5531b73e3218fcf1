"""What hyperparameters mean: defaults, the schedule, what decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bloomery_model import Preprocess
from bloomery_trainer.config import Hyperparameters
from bloomery_trainer.train.data import augmentation
from bloomery_trainer.train.presets import PRESETS
from bloomery_trainer.train.recipe import Recipe, build_optimizer, rate_factor, resolve


def recipe(**given: Any) -> Recipe:
    return resolve(Hyperparameters.model_validate(given), PRESETS["resnet18"])


def test_what_is_not_given_comes_from_the_preset() -> None:
    resolved = recipe()

    assert (resolved.epochs, resolved.max_steps, resolved.batch_size) == (30, None, 32)
    assert (resolved.optimizer, resolved.momentum, resolved.augmentation) == ("sgd", 0.9, "TrivialAugment")
    assert resolved.learning_rate == pytest.approx(0.1 * 32 / 256)


def test_what_is_given_is_taken_also_where_it_is_zero() -> None:
    resolved = recipe(learningRate=0.3, momentum=0, weightDecay=0, warmupEpochs=0, optimizer="adamw", epochs=3)

    assert (resolved.learning_rate, resolved.momentum, resolved.weight_decay) == (0.3, 0, 0)
    assert (resolved.warmup_epochs, resolved.optimizer, resolved.epochs) == (0, "adamw", 3)


def test_the_length_is_steps_where_steps_are_given() -> None:
    assert recipe(maxSteps=70).total_steps(44) == 70
    assert recipe(epochs=3).total_steps(44) == 132


def test_the_rate_rises_in_a_line_then_falls_in_a_cosine() -> None:
    factors = [rate_factor(step, total_steps=100, warmup_steps=10) for step in range(100)]

    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[99] < 0.001
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_a_run_shorter_than_its_warm_up_still_learns() -> None:
    assert rate_factor(0, total_steps=1, warmup_steps=50) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = build_optimizer(model, recipe(optimizer=optimizer, weightDecay=0.1)).param_groups

    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 2), (0.0, 4)]


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (448, 512), (32, 32), (64, 64)])
def test_large_images_lose_their_border_and_small_ones_do_not(size: int, resize: int) -> None:
    assert Preprocess.for_size(size).resize == resize


def test_training_at_224_sees_crops_of_176() -> None:
    assert recipe(imageSize=224).training_size == 176
    assert recipe(imageSize=32).training_size == 32
    assert recipe(imageSize=224, augmentation="Light").training_size == 224


@pytest.mark.parametrize("name", ["TrivialAugment", "Light"])
def test_augmented_images_have_one_size_whatever_came_in(name: str) -> None:
    augment = augmentation(recipe(augmentation=name, imageSize=64))
    assert augment is not None
    for size in ((64, 90), (70, 64)):
        image = augment(torch.zeros((3, *size), dtype=torch.uint8))
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)


def test_without_augmentation_and_flip_images_are_left_alone() -> None:
    assert augmentation(recipe(augmentation="None", horizontalFlip=False)) is None
