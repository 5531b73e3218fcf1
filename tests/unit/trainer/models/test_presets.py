"""Every preset trains, is exported, and has defaults that are right for it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bloomery_trainer.config import Hyperparameters
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models.presets import PRESETS, find_preset
from bloomery_trainer.recipe import resolve

NAMES = tuple(PRESETS)
ALIASES = {"general": "resnet50", "high-precision": "convnext-small", "high-performance": "mobilenet-v3-large"}
LARGE = {"convnext-small", "convnext-tiny", "efficientnet-v2-s", "resnet101"}
SMALL = [name for name in NAMES if name not in LARGE | ALIASES.keys()]


@pytest.mark.feature("T1")
@pytest.mark.parametrize("name", SMALL)
def test_a_preset_trains_and_its_model_answers_in_onnx(train: Callable[..., Any], tmp_path: Path, name: str) -> None:
    ended = train({"imageSize": 75, "maxSteps": 1}, preset=name, output={"uri": f"file://{tmp_path}"})

    # The export compares the ONNX model's answers with the trained network's, and fails where they differ.
    assert ended.code == 0, ended.message
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 24


@pytest.mark.feature("T1")
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_built_for_the_classes_asked_for(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build(7, image_size=preset.image_size).eval()
        outputs = model(torch.zeros(2, 3, preset.image_size, preset.image_size))

    assert outputs.shape == (2, 7)
    assert preset.head(image_size=preset.image_size)


@pytest.mark.feature("T1")
def test_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadConfig, match=r"there is no preset 'resnet19'; there are .*resnet18"):
        find_preset("resnet19")


@pytest.mark.feature("T1")
def test_the_aliases_stand_for_what_is_documented() -> None:
    assert {alias: PRESETS[name] for alias, name in ALIASES.items()} == {alias: PRESETS[alias] for alias in ALIASES}


def test_inception_trains_at_299_with_its_auxiliary_head() -> None:
    preset = PRESETS["inception-v3"]
    recipe = resolve(Hyperparameters(), preset, images=1_000, start="scratch")
    model = preset.build(3, image_size=recipe.training_size).train()
    main, auxiliary = model(torch.zeros(2, 3, recipe.training_size, recipe.training_size))

    assert (recipe.image_size, recipe.training_size, preset.auxiliary) == (299, 299, 0.4)
    assert main.shape == auxiliary.shape == (2, 3)


def test_inception_at_a_smaller_size_does_without_its_auxiliary_head() -> None:
    model = PRESETS["inception-v3"].build(3, image_size=128).train()

    assert model(torch.zeros(2, 3, 128, 128)).shape == (2, 3)


def test_googlenet_has_two_auxiliary_heads_while_it_trains() -> None:
    model = PRESETS["googlenet"].build(3, image_size=224).train()

    assert [output.shape for output in model(torch.zeros(2, 3, 64, 64))] == [(2, 3)] * 3


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALIASES])
def test_batch_norm_averages_follow_the_images_within_60_steps(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build(3, image_size=preset.image_size)
    momenta = {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)}

    assert all(momentum and (1 - momentum) ** 60 < 0.01 for momentum in momenta)


def test_image_size_too_small_for_a_preset_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"imageSize is 64; this preset needs at least 75"):
        resolve(Hyperparameters.model_validate({"imageSize": 64}), PRESETS["inception-v3"], images=9, start="scratch")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ALIASES])
def test_the_head_is_only_what_depends_on_the_number_of_classes(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build(5, image_size=preset.image_size)
    head = preset.head(image_size=preset.image_size)
    body = sum(p.numel() for n, p in model.named_parameters() if n not in head)

    assert all(dict(model.named_parameters())[n].shape[0] == 5 for n in head)
    assert body > 20 * sum(p.numel() for n, p in model.named_parameters() if n in head)
    assert isinstance(model, nn.Module)
