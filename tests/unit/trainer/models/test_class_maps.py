"""Class activation maps as a network of its own, beside the exported model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from bloomery_model import Preprocess
from bloomery_model.folder import EXPLANATION, file_digest, model_digest
from bloomery_trainer.engine.heat_maps import grad_cam
from bloomery_trainer.models import export
from bloomery_trainer.models.presets import PRESETS

pytestmark = pytest.mark.feature("T28")

CLASSES = ("a", "b", "c")


def exported(folder: Path, model: nn.Module, *, side: int) -> torch.Tensor:
    """Export a model; return the images that it was compared on."""
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    export.write_model(folder, model.eval(), classes=CLASSES, preprocess=Preprocess.for_size(side), examples=images)
    return images


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2", "efficientnet-b0", "googlenet"])
def test_the_mean_of_a_map_is_the_logit_without_its_bias(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PRESETS[name].build(len(CLASSES), image_size=96)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.normal_(head.weight)
    nn.init.normal_(head.bias)
    images = exported(tmp_path, model, side=96)

    (maps,) = onnxruntime.InferenceSession(tmp_path / EXPLANATION).run(None, {export.INPUT: images.numpy()})

    logits = model(images).detach().numpy()
    assert maps.shape == (2, 3, 3, 3)
    assert np.ptp(logits) > 1e-3
    assert maps.mean(axis=(2, 3)) + head.bias.detach().numpy() == pytest.approx(logits, rel=1e-3, abs=1e-4)
    heat = grad_cam(model, images, torch.tensor([1, 1])).numpy()
    positive = np.maximum(maps[:, 1], 0)
    assert positive / np.maximum(positive.max(axis=(1, 2), keepdims=True), 1e-30) == pytest.approx(heat, abs=1e-3)


@pytest.mark.parametrize(("name", "side"), [("mobilenet-v3-small", 96), ("resnet18", 32)])
def test_other_ends_and_one_place_have_no_maps(name: str, side: int, tmp_path: Path) -> None:
    exported(tmp_path, PRESETS[name].build(len(CLASSES), image_size=side), side=side)

    assert not (tmp_path / EXPLANATION).exists()


def test_a_norm_between_pooling_and_the_linear_layer_has_no_maps(tmp_path: Path) -> None:
    pooled = [nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3)]
    exported(tmp_path, nn.Sequential(*pooled), side=32)

    assert not (tmp_path / EXPLANATION).exists()


def test_the_digest_of_a_trained_model_covers_the_maps(train: Callable[..., Any], tmp_path: Path) -> None:
    ended = train({"imageSize": 64, "maxSteps": 1}, output={"uri": f"file://{tmp_path}"})

    assert ended.code == 0, ended.message
    files = json.loads((tmp_path / "model" / "metadata.json").read_text(encoding="utf-8"))["files"]
    assert files[EXPLANATION] == file_digest(tmp_path / "model" / EXPLANATION)
    assert ended.message["model"]["digest"] == model_digest(files)
