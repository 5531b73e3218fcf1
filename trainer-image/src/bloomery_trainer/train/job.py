"""What the steps of one run share: its configuration, what follows from it, and where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bloomery_model import Preprocess
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.progress import Progress
from bloomery_trainer.shutdown import Shutdown, Terminated
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.train import initial
from bloomery_trainer.train.data import Loader, evaluation_loader, processors
from bloomery_trainer.train.dataset import LocalDataset, fetch
from bloomery_trainer.train.evaluate import Batch, Evaluation, answers
from bloomery_trainer.train.initial import Initial
from bloomery_trainer.train.presets import PRESETS, Preset
from bloomery_trainer.train.recipe import Recipe, resolve
from bloomery_trainer.train.world import World

_EVALUATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the `train` command, on one process of it."""

    config: TrainConfig
    progress: Progress
    shutdown: Shutdown
    world: World
    access: S3Access
    output: Folder
    scratch: Path
    device: torch.device
    preset: Preset
    recipe: Recipe
    preprocess: Preprocess

    def open(self, uri: str) -> Folder:
        """A folder of the store."""
        return open_folder(uri, self.access)

    def started_from(self) -> Initial | None:
        """The weights to start from, if there are any; raises BadConfig where they can not be used."""
        wanted = self.config.initial_model
        return initial.load(wanted, self.config.preset, self.open, self.scratch) if wanted is not None else None

    def dataset(self, splits: tuple[str, ...]) -> LocalDataset:
        """The images; of several processes on a node, the first fetches them for all."""
        first = self.world.local_rank == 0
        versions = self.config.datasets
        fetched = fetch(versions, self.open, self.scratch, splits=splits) if first else None
        self.world.gather(None)
        return fetched or fetch(versions, self.open, self.scratch, splits=splits, download=False)

    def evaluation_loader(self, dataset: LocalDataset, split: str) -> Loader:
        """This process's share of a split."""
        batch = max(_EVALUATION_BATCH, self.recipe.batch_size)
        files = dataset.splits[split]
        return evaluation_loader(files, self.preprocess, batch=batch, device=self.device, world=self.world)

    def evaluate(self, model: nn.Module, loader: Loader, *, exact: bool) -> Evaluation:
        """The model's answers on a whole split, each process having asked its share; everybody gets all.

        Raises Terminated on SIGTERM where this process is alone: with others, they would wait for it.
        """
        mine = answers(model, self._until_terminated(loader), self.preprocess, device=self.device, exact=exact)
        shares = self.world.gather(mine)
        count = sum(len(labels) for _, labels in shares)
        labels = np.empty(count, np.int64)
        probabilities = np.empty((count, shares[0][0].shape[1]), np.float32)
        for rank, (share, classes) in enumerate(shares):
            if len(classes):
                probabilities[rank :: self.world.size], labels[rank :: self.world.size] = share, classes
        return Evaluation.of(probabilities, labels)

    def _until_terminated(self, loader: Loader) -> Iterator[Batch]:
        for batch in loader:
            if self.world.size == 1 and self.shutdown.terminating:
                raise Terminated
            yield batch


def describe(
    config: TrainConfig, progress: Progress, shutdown: Shutdown, world: World, access: S3Access, scratch: Path
) -> Job:
    """Works out what follows from the configuration; raises BadConfig where it does not fit together."""
    preset = PRESETS[config.preset]
    recipe = resolve(config.hyperparameters, preset, pretrained=config.initial_model is not None)
    return Job(
        config=config,
        progress=progress,
        shutdown=shutdown,
        world=world,
        access=access,
        output=open_folder(config.output.uri, access, create=True),
        scratch=scratch,
        device=_device(world, recipe.seed),
        preset=preset,
        recipe=recipe,
        preprocess=Preprocess.for_size(recipe.image_size),
    )


def _device(world: World, seed: int) -> torch.device:
    torch.manual_seed(seed + world.rank)
    torch.set_num_threads(processors(world))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", world.local_rank)
