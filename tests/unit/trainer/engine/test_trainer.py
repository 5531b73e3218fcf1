"""The trainer on a tiny network: how it ends, what it survives, and that a checkpoint restores all of it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bloomery_model import Preprocess
from bloomery_trainer.config import Checkpoint, Hyperparameters
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.data.loader import TrainingBatches
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine import trainer as trainer_module
from bloomery_trainer.engine.checkpoint import FORMAT, Checkpoints
from bloomery_trainer.engine.cooldown import Cooldown
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.engine.loss import TrainingLoss
from bloomery_trainer.engine.observer import Observer, Step
from bloomery_trainer.engine.optimizer import build_optimizer
from bloomery_trainer.engine.state import TrainState
from bloomery_trainer.engine.trainer import Plan, Trainer
from bloomery_trainer.engine.weight_average import WeightAverage
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import precision
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.recipe import resolve
from bloomery_trainer.shutdown import Shutdown

SIZE, BATCH, STEPS = 32, 8, 4
IMAGES = torch.randint(0, 256, (STEPS * BATCH, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1)).byte()
LABELS = torch.arange(STEPS * BATCH) % 3


class Network(nn.Module):
    """Everything that a step can disturb: batch norm and dropout; `before` is called with each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(4 * 16, 3)
        self.before: Callable[[Tensor], Tensor] = lambda images: images

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, 3]."""
        logits: Tensor = self.fc(self.drop(self.body(self.before(images) if self.training else images)))
        return logits


@dataclass
class Batches:
    """The same images in each epoch."""

    batch: int = BATCH
    steps_per_epoch: int = STEPS
    on_step: Callable[[int], None] = lambda _: None

    def epoch(self, number: int, *, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from step `first` of the epoch on."""
        for step in range(first, STEPS):
            self.on_step(number * STEPS + step)
            yield IMAGES[step * BATCH : (step + 1) * BATCH], LABELS[step * BATCH : (step + 1) * BATCH]


@dataclass
class Recorded(Observer):
    """Keeps the events of training."""

    rates: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    cooldowns: list[Cooldown] = field(default_factory=list)

    def steps(self, steps: list[Step], **_: float) -> None:
        """Keeps the rates."""
        self.rates += [step.learning_rate for step in steps]

    def epoch(self, *_: Any, best: float, **__: float) -> None:
        """Keeps the best value."""
        self.best.append(best)

    def cooling_down(self, cooldown: Cooldown) -> None:
        """Keeps it."""
        self.cooldowns.append(cooldown)


class States:
    """Checkpoints in memory, each as a file would hold it."""

    def __init__(self) -> None:
        self.files: dict[int, bytes] = {}

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keeps what torch.save makes of it."""
        buffer = io.BytesIO()
        torch.save({"step": step, **state}, buffer)
        self.files[step] = buffer.getvalue()

    def at(self, step: int) -> dict[str, Any]:
        """The state after so many steps, read as the trainer reads it."""
        state: dict[str, Any] = torch.load(io.BytesIO(self.files[step]), weights_only=True)
        return state


def make_plan(*, batches: Batches | None = None, **changes: Any) -> Plan:
    fields = {"imageSize": SIZE, "batchSize": BATCH, "epochs": 10, "learningRate": 0.05, **changes.pop("fields", {})}
    preprocess = Preprocess.for_size(SIZE)

    def validate(model: nn.Module) -> Evaluation:
        model.eval()
        with torch.inference_mode():
            probabilities = model(normalise(IMAGES, preprocess)).softmax(dim=1).numpy()
        return Evaluation.of(probabilities, LABELS.numpy())

    values: dict[str, Any] = {
        "recipe": resolve(Hyperparameters.model_validate(fields), PRESETS["resnet18"], images=32, start="scratch"),
        "batches": cast(TrainingBatches, batches or Batches()),
        "classes": 3,
        "preprocess": preprocess,
        "validate": validate,
        "metric": "top1",
        "device": torch.device("cpu"),
        "world": World(),
        "observer": Recorded(),
        "shutdown": Shutdown(),
        "checkpoints": cast(Checkpoints, States()),
        "checkpoint": Checkpoint.model_validate({"everySteps": 10_000}),
    }
    return Plan(**{**values, **changes})


def make_trainer(plan: Plan) -> Trainer:
    torch.manual_seed(0)
    return Trainer(Network(), plan)


def rates(plan: Plan) -> list[float]:
    return cast(Recorded, plan.observer).rates


def weights(state: TrainState) -> list[Tensor]:
    return [value.clone() for value in state.model.state_dict().values()]


def test_run_to_its_end_anneals_and_learns() -> None:
    plan = make_plan()
    trainer = make_trainer(plan)
    state = trainer.state
    best = trainer.train()

    assert (state.ending, state.step, len(state.metrics)) == ("Trained", 40, 10)
    assert rates(plan)[-1] < 0.01 * max(rates(plan))
    assert best.rank[0] > 0.6


@pytest.mark.feature("T22")
def test_stop_cools_down_before_it_ends() -> None:
    shutdown = Shutdown()
    batches = Batches(on_step=lambda step: shutdown.stop() if step == 21 else None)
    plan = make_plan(batches=batches, shutdown=shutdown, fields={"epochs": 100})
    trainer = make_trainer(plan)
    state = trainer.state
    trainer.train()

    assert (state.ending, state.step) == ("Stopped", 24)
    assert state.cooldown == Cooldown(reason="Stopped", start=21, steps=3, factor=state.schedule(21))
    assert rates(plan)[-3:] == pytest.approx([0.05 * state.schedule(21) * share for share in (0.75, 0.5, 0.25)])


def test_stop_with_a_given_schedule_ends_at_once() -> None:
    shutdown = Shutdown()
    batches = Batches(on_step=lambda step: shutdown.stop() if step == 21 else None)
    fields = {"epochs": 100, "learningRate": None, "learningRateSchedule": "100:0.05"}
    plan = make_plan(batches=batches, shutdown=shutdown, fields=fields)
    trainer = make_trainer(plan)
    state = trainer.state
    trainer.train()

    assert (state.ending, state.step, state.cooldown) == ("Stopped", 21, None)


@pytest.mark.feature("T22")
def test_end_of_time_finds_an_annealed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: now[0])

    def advance(_: int) -> None:
        now[0] += 1.0

    plan = make_plan(batches=Batches(on_step=advance), max_seconds=60.0, fields={"epochs": 1_000})
    trainer = make_trainer(plan)
    state = trainer.state
    trainer.train()

    assert state.ending == "TrainingTimeReached"
    assert 50 <= state.seconds <= 60
    assert rates(plan)[-1] < 0.15 * max(rates(plan))


def test_early_stopping_goes_by_the_metric_and_cools_down() -> None:
    losses = iter(range(1_000, 0, -1))

    def validate(_: nn.Module) -> Evaluation:
        metrics = {"top1": 1.0, "loss": float(next(losses))}
        return Evaluation(np.ones((1, 3), np.float32), np.zeros(1, np.int64), metrics)

    plan = make_plan(validate=validate, patience=2, fields={"epochs": 100, "warmupEpochs": 0})
    trainer = make_trainer(plan)
    state = trainer.state
    best = trainer.train()

    assert state.ending == "StoppedEarly"
    assert state.cooldown == Cooldown(reason="StoppedEarly", start=12, steps=2, factor=state.schedule(12))
    assert best.epoch == state.epoch == 4, "of equal metrics, the lower loss is the better one"


def test_early_stopping_waits_for_the_end_of_the_warmup() -> None:
    def validate(_: nn.Module) -> Evaluation:
        metrics = {"top1": 0.5, "loss": 1.0}
        return Evaluation(np.ones((1, 3), np.float32), np.zeros(1, np.int64), metrics)

    plan = make_plan(validate=validate, patience=2, fields={"epochs": 100, "warmupEpochs": 6})
    trainer = make_trainer(plan)
    state = trainer.state
    trainer.train()

    assert state.cooldown is not None
    assert state.cooldown.start == 8 * STEPS


def test_resume_in_the_cooldown_gives_the_same_weights() -> None:
    results = []
    for name in ("whole", "resumed"):
        shutdown = Shutdown()
        batches = Batches(on_step=lambda step, shutdown=shutdown: shutdown.stop() if step == 41 else None)  # type: ignore[misc]
        fields = {"epochs": 100, "ema": 0.9}
        plan = make_plan(batches=batches, shutdown=shutdown, fields=fields, patience=50)
        trainer = make_trainer(plan)
        state = trainer.state
        if name == "resumed":
            trainer.train()
            saved = cast(States, plan.checkpoints).at(41)
            plan = make_plan(fields=fields, patience=50)
            trainer = make_trainer(plan)
            state = trainer.state
            trainer.resume(saved)
        trainer.train()
        results.append((state, weights(state), list(cast(WeightAverage, state.average).state_dict().values())))

    (whole, *tensors), (resumed, *others) = results
    assert (whole.ending, whole.step, whole.metrics) == (resumed.ending, resumed.step, resumed.metrics)
    assert whole.step == 46
    for mine, theirs in zip(tensors, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_one_non_finite_step_is_skipped() -> None:
    plan = make_plan()
    trainer = make_trainer(plan)
    state = trainer.state
    network = cast(Network, state.model)
    network.before = lambda images: images * (float("inf") if state.step == 9 else 1)
    trainer.train()

    assert (state.ending, state.step, state.skipped.total) == ("Trained", 40, 1)
    assert len(rates(plan)) == 39
    assert all(bool(torch.isfinite(value).all()) for value in weights(state))


def test_non_finite_first_step_leaves_the_momentum_at_zero() -> None:
    plan = make_plan()
    trainer = make_trainer(plan)
    state = trainer.state
    before = weights(state)
    cast(Network, state.model).before = lambda images: images * (float("nan") if state.step < 4 else 1)
    trainer.train_one_epoch()

    assert state.skipped.total == 4
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True) if a.is_floating_point())
    buffers = [values["momentum_buffer"] for values in state.optimizer.state.values()]
    assert len(buffers) == 6
    assert not any(bool(buffer.any()) for buffer in buffers)


def test_divergence_ends_with_the_best_model() -> None:
    plan = make_plan(fields={"epochs": 50})
    trainer = make_trainer(plan)
    state = trainer.state
    cast(Network, state.model).before = lambda images: images * (float("nan") if state.step >= 12 else 1)
    best = trainer.train()

    assert state.ending == "Diverged"
    assert state.divergence is not None
    assert state.divergence.step == 32
    assert best.epoch <= 7
    assert all(bool(torch.isfinite(value).all()) for value in best.weights.values())


def test_non_finite_weights_are_divergence() -> None:
    plan = make_plan(fields={"learningRate": 1e38, "warmupEpochs": 0})
    trainer = make_trainer(plan)

    with pytest.raises(BadConfig, match=r"no number any more at step 4; lower hyperparameters.learningRate") as raised:
        trainer.train()
    assert raised.value.reason == "Diverged"


def test_gradient_is_clipped() -> None:
    plan = make_plan(fields={"momentum": 0, "weightDecay": 0, "learningRate": 1.0, "warmupEpochs": 0})
    trainer = make_trainer(plan)
    state = trainer.state
    cast(Network, state.model).fc.weight.data *= 1e4
    before = [value.detach().clone() for value in state.model.parameters()]
    trainer.train_step(TrainingLoss(plan.recipe, classes=3), IMAGES[:8], LABELS[:8])
    moved = [a - b.detach() for a, b in zip(before, state.model.parameters(), strict=True)]

    assert torch.cat([value.flatten() for value in moved]).norm() == pytest.approx(5.0, rel=1e-2)


def test_average_follows_the_weights_from_the_first_steps_on() -> None:
    plan = make_plan(fields={"ema": 0.9999, "epochs": 2})
    trainer = make_trainer(plan)
    state = trainer.state
    expected = copy.deepcopy(dict(state.model.named_parameters()))
    decays = [min(0.9999, (1 + step) / (10 + step)) for step in range(8)]
    for step, (images, labels) in enumerate([*plan.batches.epoch(0), *plan.batches.epoch(1)]):
        trainer.train_step(TrainingLoss(plan.recipe, classes=3), images, labels)
        for name, value in state.model.named_parameters():
            expected[name] = decays[step] * expected[name] + (1 - decays[step]) * value  # type: ignore[assignment]

    assert np.prod(decays) < 1e-3, "next to nothing of the random start is left"
    for name, value in state.evaluated_model.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.feature("T25")
@pytest.mark.parametrize("fields", [{}, {"mixup": 0.2}])
def test_batch_in_parts_has_the_same_gradient(fields: dict[str, Any]) -> None:
    results = []
    for size in (BATCH, 3):
        plan = make_plan(fields=fields, class_weights=torch.tensor([0.5, 1.0, 1.5]), micro_batch=size)
        trainer = make_trainer(plan)
        state = trainer.state
        # Batch norm takes its statistics over a part, so the gradient is the same without it only.
        cast(Network, state.model).body[1] = nn.Identity()
        cast(Network, state.model).drop = nn.Dropout(0)
        state.optimizer = build_optimizer(state.model, plan.recipe)
        torch.manual_seed(3)
        loss = TrainingLoss(plan.recipe, classes=3, weights=plan.class_weights)
        outcome = trainer.train_step(loss, IMAGES[:8], LABELS[:8])
        results.append((outcome[0], weights(state)))

    (loss, whole), (other_loss, parts) = results
    torch.testing.assert_close(loss, other_loss)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.feature("T25")
def test_step_that_does_not_fit_is_repeated_in_parts() -> None:
    plan = make_plan()
    trainer = make_trainer(plan)
    state = trainer.state
    sizes: list[int] = []

    def before(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images

    cast(Network, state.model).before = before
    trainer.train()

    assert sizes[:6] == [8, 4, 2, 2, 2, 2]
    assert set(sizes[2:]) == {2}
    assert (state.ending, state.step, state.micro_batch) == ("Trained", 40, 2)
    assert state.state_dict()["micro_batch"] == 2


@pytest.mark.feature("T25")
def test_image_that_does_not_fit_is_named() -> None:
    plan = make_plan()
    trainer = make_trainer(plan)
    state = trainer.state

    def before(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    cast(Network, state.model).before = before
    with pytest.raises(BadConfig, match=r"does not hold a step of 2 images of 32 pixels; lower .*imageSize") as raised:
        trainer.train()
    assert raised.value.reason == "OutOfMemory"


def test_float16_trains_with_a_scaler_that_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "training_dtype", lambda *_, **__: torch.float16)
    plan = make_plan()
    trainer = make_trainer(plan)
    state = trainer.state
    trainer.train()
    saved = state.state_dict()["scaler"]

    assert state.ending == "Trained"
    assert state.skipped.total < 10
    assert saved["scale"] <= 65536
    assert saved["_growth_tracker"] > 0


def test_reported_metric_is_the_best_so_far() -> None:
    values = iter([0.5, 0.4, 0.6, 0.1])

    def validate(_: nn.Module) -> Evaluation:
        metrics = {"top1": next(values), "loss": 1.0}
        return Evaluation(np.ones((1, 3), np.float32), np.zeros(1, np.int64), metrics)

    plan = make_plan(validate=validate, fields={"epochs": 4})
    make_trainer(plan).train()

    assert cast(Recorded, plan.observer).best == [0.5, 0.5, 0.6, 0.6]


def test_checkpoint_has_the_keys_of_its_format() -> None:
    plan = make_plan(fields={"epochs": 1, "ema": 0.9})
    make_trainer(plan).train()
    saved = cast(States, plan.checkpoints).at(STEPS)

    assert FORMAT == 2
    assert set(saved) == {
        *("step", "model", "optimizer", "average", "scaler", "micro_batch", "epoch", "position", "seconds"),
        *("evaluation_seconds", "best", "metrics", "last_metrics", "patience", "skipped", "cooldown", "divergence"),
        *("ending", "random", "head_seconds"),
    }
    assert set(saved["best"]) == {"epoch", "rank", "weights"}
    assert set(saved["patience"]) == {"epoch", "value"}
