"""Parts of a training step: memory, precision, the loss, and layers in training mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bloomery_trainer.config import Hyperparameters
from bloomery_trainer.data.sampling import class_weights
from bloomery_trainer.engine import memory, micro_batch
from bloomery_trainer.engine.evaluation import Evaluation, NonFiniteOutputs
from bloomery_trainer.engine.loss import TrainingLoss
from bloomery_trainer.engine.modes import set_training_mode
from bloomery_trainer.engine.non_finite import SkippedSteps
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models.precision import autocast_dtype
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.recipe import Recipe, resolve

GIB = 2**30


def recipe(preset: str = "resnet18", **fields: object) -> Recipe:
    return resolve(Hyperparameters.model_validate(fields), PRESETS[preset], images=3_000, start="pretrained")


@pytest.mark.feature("T25")
@pytest.mark.parametrize(
    ("preset", "size", "batch", "bf16", "measured"),
    [
        ("resnet50", 224, 16, True, 1.89),
        ("resnet50", 224, 16, False, 2.57),
        ("resnet50", 176, 32, False, 2.9),
        ("convnext-small", 176, 32, False, 5.6),
        ("inception-v3", 299, 32, False, 4.5),
    ],
)
def test_estimate_of_a_step_is_near_what_was_measured(
    preset: str, size: int, batch: int, bf16: bool, measured: float
) -> None:
    estimate = memory.step_memory_bytes(PRESETS[preset], size, batch, bf16=bf16, optimizer="sgd") / GIB

    assert 0.85 * measured < estimate < 1.4 * measured


@pytest.mark.feature("T25")
def test_batch_is_halved_until_a_step_fits() -> None:
    preset, resolved = PRESETS["convnext-small"], recipe("convnext-small")
    size = memory.fitting_batch(preset, resolved, 32, is_reduced=False, limit_bytes=4 * GIB)
    peak = memory.step_memory_bytes(preset, resolved.training_size, size, bf16=False)

    assert size in (4, 8, 16)
    assert peak < 4 * GIB < memory.step_memory_bytes(preset, resolved.training_size, 32, bf16=False)
    assert memory.fitting_batch(preset, resolved, 32, is_reduced=False, limit_bytes=64 * GIB) == 32
    assert memory.fitting_batch(preset, resolved, 32, is_reduced=False, limit_bytes=1) == 2


def test_processes_agree_on_the_part_that_all_hold() -> None:
    flags_of_others = iter([True, False])
    size = micro_batch.agreed(
        16, fits=lambda size: size <= 16, any_of=lambda flags: [flags[0] or next(flags_of_others)], side=64
    )

    assert size == 8


def test_trial_of_a_part_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(2))
    part = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])
    network(part[0])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()

    def forward(images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    def too_large(_images: Tensor, _labels: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert micro_batch.fits(network, forward, part, scaler)
    assert not micro_batch.fits(network, too_large, part, scaler)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("device", "side", "has_bfloat16", "dtype"),
    [
        ("cuda", 32, True, torch.bfloat16),
        ("cuda", 224, False, torch.float16),
        ("cpu", 224, True, torch.bfloat16),
        ("cpu", 32, True, None),
        ("cpu", 224, False, None),
    ],
)
def test_reduced_precision_is_what_the_device_computes_natively(
    device: str, side: int, has_bfloat16: bool, dtype: torch.dtype | None
) -> None:
    assert autocast_dtype(device, side=side, has_bfloat16=has_bfloat16) is dtype


@pytest.mark.parametrize("preset", ["convnext-tiny", "mobilenet-v3-small", "efficientnet-b0"])
def test_frozen_body_drops_nothing(preset: str) -> None:
    model = PRESETS[preset].build(3, image_size=64)
    head = PRESETS[preset].head(image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in head
    set_training_mode(model)
    with torch.no_grad():
        assert torch.equal(model(images), model(images))


def test_network_that_is_trained_whole_drops_as_usual() -> None:
    model = PRESETS["mobilenet-v3-small"].build(3, image_size=64)
    set_training_mode(model)

    assert all(module.training for module in model.modules())


@pytest.mark.feature("T24")
def test_balanced_loss_gives_each_class_the_same_weight() -> None:
    labels = np.array([0] * 80 + [1] * 10 + [2] * 10)
    weights = class_weights(labels, 4)

    assert (weights[:3] * torch.tensor([80, 10, 10])).tolist() == pytest.approx([100 / 3] * 3)
    assert bool(torch.isfinite(weights).all())


@pytest.mark.feature("T24")
def test_weighted_loss_of_parts_adds_up_to_the_whole() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    weights = class_weights(labels.numpy(), 3)
    loss = TrainingLoss(recipe(labelSmoothing=0.0), classes=3, auxiliary=0.3, weights=weights)
    whole = loss(logits, labels, batch=6)
    parts = loss(logits[:4], labels[:4], batch=6) + loss(logits[4:], labels[4:], batch=6)
    by_hand = (nn.functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()

    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(loss((logits, logits), labels, batch=6), 1.3 * whole)


def test_answers_that_are_no_numbers_are_refused_in_words() -> None:
    with pytest.raises(NonFiniteOutputs, match=r"something else than numbers \(NaN\)"):
        Evaluation.of(np.array([[np.nan, 0.5]], np.float32), np.array([0]))
    assert issubclass(NonFiniteOutputs, BadConfig)


def test_steps_left_out_now_and_then_are_no_divergence() -> None:
    now_and_then = [step % 25 != 0 for step in range(1_000)]
    too_often = [step % 10 != 0 for step in range(1_000)]

    assert SkippedSteps().update(now_and_then, total_steps=1_000) is None
    assert SkippedSteps().update(too_often, total_steps=1_000) == 500
    assert SkippedSteps().update([True, *[False] * 30], total_steps=10_000) == 20


@pytest.mark.parametrize(("has_amx", "dtype"), [(False, None), (True, torch.bfloat16)])
def test_depthwise_networks_need_amx_to_train_in_bfloat16(has_amx: bool, dtype: torch.dtype | None) -> None:
    assert autocast_dtype("cpu", side=176, has_bfloat16=True, has_amx=has_amx, depthwise=True) is dtype
    assert autocast_dtype("cpu", side=176, has_bfloat16=True, has_amx=has_amx) is torch.bfloat16


def test_presets_of_depthwise_convolutions_say_so() -> None:
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            model = preset.build(2, image_size=max(64, preset.smallest))
        convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
        blocks = sum(module.groups == module.in_channels > 1 and module.kernel_size < (7, 7) for module in convolutions)
        assert preset.depthwise == (blocks > 5), name
