"""The state of a training: everything that changes while it runs, and that a checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bloomery_trainer.engine.cooldown import Cooldown
from bloomery_trainer.engine.early_stopping import Patience
from bloomery_trainer.engine.non_finite import BufferBackup, SkippedSteps
from bloomery_trainer.engine.schedule import Schedule
from bloomery_trainer.engine.weight_average import WeightAverage

Ending = Literal["Trained", "StoppedEarly", "Stopped", "TrainingTimeReached", "Diverged"]


@dataclass
class Best:
    """The epoch with the best metric so far; of equal ones, the one with the lower loss."""

    epoch: int
    rank: tuple[float, float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Divergence:
    """The step after which the loss or the weights were not finite."""

    step: int
    learning_rate: float


@dataclass
class TrainState:
    """All that changes while training; ``position`` counts the steps of the current epoch."""

    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    micro_batch: int
    average: WeightAverage | None = None
    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    """Spent on these steps and the evaluations between them, over all starts."""
    head_seconds: float = 0.0
    """Spent on fitting the head before the first step."""
    evaluation_seconds: float = 0.0
    best: Best | None = None
    metrics: list[float] = field(default_factory=list)
    """The job's metric after each epoch."""
    last_metrics: dict[str, float] = field(default_factory=dict)
    """All figures of the last epoch."""
    patience: Patience = field(default_factory=Patience)
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    cooldown: Cooldown | None = None
    divergence: Divergence | None = None
    ending: Ending | None = None
    is_micro_batch_agreed: bool = False
    """Whether several processes have agreed on ``micro_batch`` since they were started."""
    backup: BufferBackup = field(init=False)

    def __post_init__(self) -> None:
        """Back up the batch norms' statistics."""
        self.backup = BufferBackup([self.model] if self.average is None else [self.model, self.average.module])

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated and kept: the average of the weights where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def rate_factor(self) -> float:
        """The share of the full learning rates that the next step has."""
        return self.schedule(self.step) if self.cooldown is None else self.cooldown.factor_at(self.step)

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the random numbers, in tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": self.scaler.state_dict(),
            "micro_batch": self.micro_batch,
            "epoch": self.epoch,
            "position": self.position,
            "seconds": self.seconds,
            "head_seconds": self.head_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "best": None if self.best is None else vars(self.best),
            "metrics": list(self.metrics),
            "last_metrics": dict(self.last_metrics),
            "patience": asdict(self.patience),
            "skipped": asdict(self.skipped),
            "cooldown": None if self.cooldown is None else asdict(self.cooldown),
            "divergence": None if self.divergence is None else asdict(self.divergence),
            "ending": self.ending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.seconds, self.evaluation_seconds = state["seconds"], state["evaluation_seconds"]
        # Earlier checkpoints of this format do not have it.
        self.head_seconds = state.get("head_seconds", 0.0)
        self.metrics, self.last_metrics = list(state["metrics"]), dict(state["last_metrics"])
        self.micro_batch, self.ending = state["micro_batch"], state["ending"]
        self.patience, self.skipped = Patience(**state["patience"]), SkippedSteps(**state["skipped"])
        self.cooldown = None if state["cooldown"] is None else Cooldown(**state["cooldown"])
        self.divergence = None if state["divergence"] is None else Divergence(**state["divergence"])
        self.best = None if state["best"] is None else Best(**{**state["best"], "rank": tuple(state["best"]["rank"])})
        self.backup.save()


def get_random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of this process's random number generators."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore the states of this process's random number generators."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy a model's parameters and buffers to the host."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
