"""The context of a run, which its steps share: configuration, what follows from it, and where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bloomery_model import Preprocess
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.dataset import LocalDataset, fetch
from bloomery_trainer.data.images import default_budget, leave_out_unreadable, processors
from bloomery_trainer.data.loader import EVALUATION_BATCH, Loader, evaluation_loader
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.scratch_cache import ScratchCache
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine.evaluation import Batch, Evaluation, NonFiniteOutputs, answers
from bloomery_trainer.models import initial
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.models.presets import Preset, find_preset
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.recipe import Recipe, image_size
from bloomery_trainer.shutdown import Shutdown, Terminated
from bloomery_trainer.storage import Folder, S3Access, open_folder

_MODEL_COPIES = 8
"""Files on the local disk besides images, in sizes of the network: a checkpoint with the optimizer's state,
the average and the best weights, and the exported files."""

_LOG_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One run of the ``train`` command, on one process of it."""

    config: TrainConfig
    progress: Progress
    shutdown: Shutdown
    world: World
    access: S3Access
    output: Folder
    scratch: Path
    device: torch.device
    preset: Preset
    preprocess: Preprocess
    memory: MemoryBudget
    """For decoded images, training's and evaluation's together."""
    scratch_cache: ScratchCache
    """For decoded images that the memory does not hold."""
    starts: int = 1
    """The number of starts of this training, this one included."""
    resolved_recipe: Recipe | None = None
    """Set once the images and the start are known: what is not asked for depends on them."""

    @property
    def recipe(self) -> Recipe:
        """All hyperparameters; raises ValueError before they are resolved."""
        if self.resolved_recipe is None:
            raise ValueError("the recipe is resolved once the dataset and the start are known")
        return self.resolved_recipe

    def open(self, uri: str) -> Folder:
        """Return a folder of the store."""
        return open_folder(uri, self.access)

    def started_from(self) -> Initial:
        """Load what training starts from; the leader fetches it for all processes.

        Raises:
            BadConfig: it cannot be used.
        """
        return self.world.broadcast(lambda: initial.load(self.config, self.open, self.scratch, output=self.output))

    def dataset(self, splits: tuple[str, ...]) -> LocalDataset:
        """Return the images; of several processes on a node, the first fetches them for all.

        Images to evaluate that cannot be decoded are left out.
        """
        first = self.world.local_rank == 0
        fetch_images = partial(
            fetch,
            self.config.datasets,
            self.open,
            self.scratch,
            splits=splits,
            least_classes=1 if self.config.evaluate_only else 2,
        )
        fetched = None
        if first:
            fetched = fetch_images(
                scratch_bytes=self.config.scratch_bytes, reserved_bytes=self.scratch_cache.reserved_bytes
            )
        self.world.barrier()
        return leave_out_unreadable(fetched or fetch_images(download=False), self.preprocess, world=self.world)

    def evaluation_loader(self, dataset: LocalDataset, split: str) -> Loader:
        """Return this process's share of a split."""
        batch = max(EVALUATION_BATCH, self.recipe.batch_size)
        files = dataset.splits[split]
        return evaluation_loader(
            files,
            self.preprocess,
            batch=batch,
            device=self.device,
            world=self.world,
            budget=self.memory,
            cache=self.scratch_cache,
        )

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """Return the model's answers on a whole split, each process having asked its share.

        The leader gets all answers, the others only their own; the figures of the whole go to all, so that every
        process decides the same. Raises Terminated on SIGTERM where this process is alone: with others, they would
        wait for it.
        """
        own = answers(model, self._until_terminated(loader), self.preprocess, device=self.device)
        shares = self.world.gather_to_leader(own)
        whole = self._joined(shares) if shares is not None else None
        metrics = self.world.broadcast(
            lambda: dict(whole.metrics) if isinstance(whole, Evaluation) else whole  # the leader has one of the two
        )
        if isinstance(metrics, NonFiniteOutputs):
            raise metrics
        assert metrics is not None
        return whole if isinstance(whole, Evaluation) else Evaluation(*own, metrics)

    def _joined(self, shares: list[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> Evaluation | NonFiniteOutputs:
        """Return the answers of all processes in the order of the split's images, or the error that all must raise."""
        count = sum(len(labels) for _, labels in shares)
        labels = np.empty(count, np.int64)
        probabilities = np.empty((count, shares[0][0].shape[1]), np.float32)
        for rank, (share, classes) in enumerate(shares):
            if len(classes):
                probabilities[rank :: self.world.size], labels[rank :: self.world.size] = share, classes
        try:
            return Evaluation.of(probabilities, labels)
        except NonFiniteOutputs as error:
            return error

    def _until_terminated(self, loader: Loader) -> Iterator[Batch]:
        for batch in loader:
            if self.world.size == 1 and self.shutdown.terminating:
                raise Terminated
            yield batch


def build_run_context(
    config: TrainConfig, progress: Progress, shutdown: Shutdown, world: World, access: S3Access, scratch: Path
) -> RunContext:
    """Work out all but the recipe from the configuration; raises BadConfig if it does not fit together."""
    preset = find_preset(config.preset)
    preprocess = Preprocess.for_size(image_size(config.hyperparameters, preset))
    reserved_bytes = _model_bytes(preset, preprocess.crop) * _MODEL_COPIES + _LOG_BYTES
    return RunContext(
        config=config,
        progress=progress,
        shutdown=shutdown,
        world=world,
        access=access,
        output=open_folder(config.output.uri, access, create=True),
        scratch=scratch,
        device=_device(world, config.hyperparameters.seed),
        preset=preset,
        preprocess=preprocess,
        memory=default_budget(world),
        scratch_cache=ScratchCache(scratch, config.scratch_bytes, reserved_bytes),
    )


def _model_bytes(preset: Preset, image_size: int) -> int:
    """Return the size of the preset's weights for few classes."""
    with torch.device("meta"):
        return sum(value.nbytes for value in preset.build(2, image_size=image_size).state_dict().values())


def _device(world: World, seed: int) -> torch.device:
    torch.manual_seed(seed + world.rank)
    torch.set_num_threads(processors(world))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", world.local_rank)
