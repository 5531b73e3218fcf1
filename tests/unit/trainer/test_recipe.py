"""Recipes: defaults by the size of the set and the start, the schedule, weight decay."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from bloomery_model import Preprocess
from bloomery_trainer.config import Hyperparameters
from bloomery_trainer.data.augment import augmentation
from bloomery_trainer.engine.optimizer import build_optimizer
from bloomery_trainer.engine.schedule import build_schedule, rate_factor, set_learning_rates
from bloomery_trainer.models.presets import PRESETS, Start
from bloomery_trainer.recipe import Recipe, images_seen, notes, resolve


def recipe(
    *, preset: str = "resnet18", images: int = 3_000, start: Start = "scratch", processes: int = 1, **fields: Any
) -> Recipe:
    hyperparameters = Hyperparameters.model_validate(fields)
    return resolve(hyperparameters, PRESETS[preset], images=images, start=start, processes=processes)


def test_what_is_not_given_comes_from_the_preset() -> None:
    resolved = recipe()

    assert (resolved.epochs, resolved.max_steps, resolved.batch_size) == (59, None, 32)
    assert (resolved.optimizer, resolved.momentum, resolved.augmentation) == ("sgd", 0.9, "Crops")
    assert (resolved.learning_rate, resolved.weight_decay, resolved.max_grad_norm) == (0.05, 5e-4, 5.0)


def test_what_is_given_is_taken_also_where_it_is_zero() -> None:
    resolved = recipe(learningRate=0.3, momentum=0, weightDecay=0, warmupEpochs=0, optimizer="adamw", epochs=3)

    assert (resolved.learning_rate, resolved.momentum, resolved.weight_decay) == (0.3, 0, 0)
    assert (resolved.warmup_epochs, resolved.optimizer, resolved.epochs) == (0, "adamw", 3)


def test_the_length_is_steps_where_steps_are_given() -> None:
    assert recipe(maxSteps=70).total_steps(44) == 70
    assert recipe(epochs=3).total_steps(44) == 132


@pytest.mark.feature("T22")
@pytest.mark.parametrize(
    ("images", "start", "seen"),
    [
        (20, "pretrained", 4_000),
        (100, "pretrained", 4_000),
        (20_000, "pretrained", 256_000),
        (100_000, "pretrained", 1_139_000),
        (1_300_000, "head-probe", 10_240_000),
        (2_600_000, "pretrained", 20_480_000),
        (3_000, "scratch", 175_000),
        (1_300_000, "scratch", 117_000_000),
    ],
)
def test_length_follows_the_anchors_of_set_size_and_start(images: int, start: Start, seen: int) -> None:
    assert images_seen(images, start) == pytest.approx(seen, rel=0.01)
    assert recipe(images=images, start=start).epochs == -(-images_seen(images, start) // images)


@pytest.mark.feature("T22")
def test_larger_sets_never_train_shorter() -> None:
    for start in ("scratch", "pretrained"):
        lengths = [images_seen(images, start) for images in range(10, 2_000_000, 9_973)]
        assert lengths == sorted(lengths)


@pytest.mark.feature("T22")
@pytest.mark.parametrize("fields", [{"epochs": 4}, {"epochs": 1}, {"maxSteps": 60}, {}])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_default_warmup_is_at_most_a_tenth_of_all_steps(preset: str, fields: dict[str, int]) -> None:
    for start in ("scratch", "pretrained"):
        resolved = recipe(preset=preset, images=2_936, start=start, **fields)
        total = resolved.total_steps(91)
        assert 0 < resolved.warmup_steps(91) <= total / 10 + 0.5


def test_far_too_many_epochs_do_not_lengthen_the_warmup() -> None:
    assert recipe(epochs=1_000).warmup_steps(93) == 500
    assert recipe(preset="convnext-tiny", epochs=1_000).warmup_steps(93) == 1_000


def test_explicit_warmup_beyond_half_the_run_is_taken_and_noted() -> None:
    resolved = recipe(epochs=4, warmupEpochs=3)

    assert resolved.warmup_steps(93) == 279
    assert any("warmupEpochs" in note for note in notes(resolved, steps_per_epoch=93))
    assert not notes(recipe(epochs=8, warmupEpochs=3, start="pretrained"), steps_per_epoch=93)


@pytest.mark.feature("T22")
@pytest.mark.parametrize(
    ("images", "start", "fields", "augmentation"),
    [
        (3_000, "scratch", {}, "Crops"),
        (3_000, "scratch", {"imageSize": 32}, "Light"),
        (50_000, "scratch", {}, "TrivialAugment"),
        (50_000, "scratch", {"maxSteps": 2_000}, "Crops"),
        (1_300_000, "pretrained", {}, "Crops"),
        (3_000, "pretrained", {"augmentation": "TrivialAugment"}, "TrivialAugment"),
    ],
)
def test_augmentation_follows_length_start_and_image_size(
    images: int, start: Start, fields: dict[str, Any], augmentation: str
) -> None:
    assert recipe(images=images, start=start, **fields).augmentation == augmentation


@pytest.mark.feature("T22")
@pytest.mark.parametrize(("preset", "body", "head"), [("resnet50", 0.01, 0.1), ("convnext-tiny", 5e-5, 5e-4)])
def test_new_head_learns_ten_times_faster_than_pretrained_body(preset: str, body: float, head: float) -> None:
    resolved = recipe(preset=preset, start="pretrained")
    probed = recipe(preset=preset, start="head-probe")

    assert (resolved.learning_rate, resolved.head_learning_rate) == pytest.approx((body, head))
    assert (probed.learning_rate, probed.head_learning_rate) == pytest.approx((body, body))
    assert recipe(preset=preset, start="pretrained", trainable="Head").learning_rate == pytest.approx(head)


def test_explicit_rate_holds_for_body_and_head() -> None:
    resolved = recipe(start="pretrained", learningRate=0.02)

    assert (resolved.learning_rate, resolved.head_learning_rate) == (0.02, 0.02)


@pytest.mark.parametrize(
    ("images", "processes", "fields", "batch"),
    [
        (3_000, 1, {}, 32),
        (3_000, 8, {}, 256),
        (60, 1, {"batchSize": 256}, 60),
        (33, 2, {"batchSize": 64}, 32),
        (145, 2, {"batchSize": 256}, 144),
        (3_000, 2, {"batchSize": 64}, 64),
    ],
)
def test_batch_is_for_each_process_and_shrinks_to_the_set(
    images: int, processes: int, fields: dict[str, int], batch: int
) -> None:
    resolved = recipe(images=images, processes=processes, **fields)

    assert resolved.batch_size == batch
    assert resolved.learning_rate == pytest.approx(0.05 * (batch / 32) ** 0.5)


def test_fewer_images_than_processes_give_each_process_two() -> None:
    assert recipe(images=5, processes=8).batch_size == 16


def test_recipe_survives_json() -> None:
    for fields in ({}, {"learningRateSchedule": "20:0.001,30:0.0001"}):
        resolved = recipe(**fields)
        assert Recipe.of_document(json.loads(json.dumps(resolved.document()))) == resolved


def test_the_rate_rises_in_a_line_then_falls_in_a_cosine() -> None:
    factors = [rate_factor(step, total_steps=100, warmup_steps=10) for step in range(100)]

    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[99] < 0.001
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_a_run_shorter_than_its_warm_up_still_learns() -> None:
    assert rate_factor(0, total_steps=1, warmup_steps=50) == 1


def test_stages_give_each_epoch_its_rate() -> None:
    model = nn.Linear(2, 2)
    resolved = recipe(learningRateSchedule="2:0.1,3:0.01")
    optimizer, schedule = build_optimizer(model, resolved), build_schedule(resolved, steps_per_epoch=5)
    rates = []
    for step in range(15):
        set_learning_rates(optimizer, schedule(step))
        rates.append(optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([0.1] * 10 + [0.01] * 5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = build_optimizer(model, recipe(optimizer=optimizer, weightDecay=0.1)).param_groups

    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 2), (0.0, 4)]


def test_convnext_layer_scales_do_not_decay() -> None:
    with torch.device("meta"):
        model = PRESETS["convnext-tiny"].build(3, image_size=64)
        groups = build_optimizer(model, recipe(preset="convnext-tiny")).param_groups
    scales = {id(value) for name, value in model.named_parameters() if name.endswith("layer_scale")}
    decayed = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}

    assert len(scales) == 18
    assert not scales & decayed


def test_head_and_body_are_groups_of_their_own() -> None:
    with torch.device("meta"):
        model = PRESETS["resnet18"].build(3, image_size=64)
    head = PRESETS["resnet18"].head(image_size=64)
    groups = build_optimizer(model, recipe(start="pretrained"), head).param_groups
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}

    assert {rates[id(value)] for name, value in model.named_parameters() if name in head} == {0.1}
    assert {rates[id(value)] for name, value in model.named_parameters() if name not in head} == {0.01}


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (448, 512), (32, 32), (64, 64)])
def test_large_images_lose_their_border_and_small_ones_do_not(size: int, resize: int) -> None:
    assert Preprocess.for_size(size).resize == resize


def test_training_at_224_sees_crops_of_176_under_strong_augmentation() -> None:
    assert recipe(imageSize=224, augmentation="TrivialAugment").training_size == 176
    assert recipe(imageSize=32, augmentation="TrivialAugment").training_size == 32
    assert recipe(imageSize=224, augmentation="Light").training_size == 224


@pytest.mark.parametrize(
    "fields", [{"augmentation": "TrivialAugment", "imageSize": 64}, {"augmentation": "Light", "imageSize": 64}]
)
def test_augmented_images_have_one_size_whatever_came_in(fields: dict[str, Any]) -> None:
    augment = augmentation(recipe(**fields))
    assert augment is not None
    for size in ((64, 90), (70, 64)):
        image = augment(torch.zeros((3, *size), dtype=torch.uint8))
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_images_are_mirrored_along_the_chosen_axes(horizontal: bool, vertical: bool) -> None:
    augment = augmentation(recipe(augmentation="None", horizontalFlip=horizontal, verticalFlip=vertical))
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4)
    torch.manual_seed(0)
    results = {tuple((image if augment is None else augment(image)).flatten().tolist()) for _ in range(50)}

    axes = [axis for axis, flips in ((-1, horizontal), (-2, vertical)) if flips]
    subsets = [[], *([axis] for axis in axes), *([axes] if len(axes) == 2 else [])]
    assert results == {tuple(image.flip(subset).flatten().tolist()) for subset in subsets}


def test_recipe_of_an_earlier_version_flips_nothing_upside_down() -> None:
    document = recipe().document()
    del document["verticalFlip"]
    assert Recipe.of_document(document) == recipe()


def test_without_augmentation_and_flip_images_are_left_alone() -> None:
    assert augmentation(recipe(augmentation="None", horizontalFlip=False)) is None
