"""Moving the registry's alias to a new model version, if it is good enough and better than today's."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from numpy.typing import NDArray
from torch import nn

from bloomery_model import Preprocess
from bloomery_trainer import model_folder
from bloomery_trainer.config import Promotion
from bloomery_trainer.errors import BadData, TrainerError
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.train import export
from bloomery_trainer.train.data import evaluation_loader
from bloomery_trainer.train.dataset import LocalDataset
from bloomery_trainer.train.evaluate import answers, score
from bloomery_trainer.train.lineage import DATA_TAGS, DIGEST_TAG, URI_TAG
from bloomery_trainer.train.world import World

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_BATCH = 64
_NOT_THERE = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}
"""What MLflow answers where a model has no such alias."""

Judge = Callable[["ModelVersion", str], float]
"""Gives a model version's value of a metric on the images that the candidate was judged by."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The new version, its value of the metric that counts, and the tags that say by which images it was judged."""

    name: str
    version: str
    metric: str
    value: float
    data: Mapping[str, str]


def promote(client: MlflowClient, wanted: Promotion, candidate: Candidate, judge: Judge) -> dict[str, Any]:
    """Moves the alias, or leaves it where it is: {alias, moved, message}. Raises what MLflow raises."""
    current = _current(client, candidate.name, wanted.alias)
    if current is not None and str(current.version) == candidate.version:
        return _verdict(wanted, f"{wanted.alias} is version {candidate.version} already", moved=True)
    reason = _too_low(wanted, candidate) or _not_better(client, wanted, candidate, current, judge)
    if reason is not None:
        return _verdict(wanted, reason, moved=False)
    client.set_registered_model_alias(candidate.name, wanted.alias, candidate.version)
    before = "there was none before" if current is None else f"it was version {current.version} before"
    return _verdict(wanted, f"{wanted.alias} is version {candidate.version} now; {before}", moved=True)


def _verdict(wanted: Promotion, message: str, *, moved: bool) -> dict[str, Any]:
    log.info("%s", message)
    return {"alias": wanted.alias, "moved": moved, "message": message}


def _current(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise


def _too_low(wanted: Promotion, candidate: Candidate) -> str | None:
    if wanted.at_least is None or candidate.value >= wanted.at_least:
        return None
    return (
        f"{wanted.alias} stays where it is: {candidate.metric} of version {candidate.version} is "
        f"{candidate.value:.4f}, at least {wanted.at_least:g} is asked for"
    )


def _not_better(
    client: MlflowClient, wanted: Promotion, candidate: Candidate, current: ModelVersion | None, judge: Judge
) -> str | None:
    if not wanted.better_than_current or current is None:
        return None
    stays = f"{wanted.alias} stays version {current.version}"
    try:
        value, how = _value_of(client, candidate, current, judge)
    except (TrainerError, FileNotFoundError) as error:
        return f"{stays}: whether version {candidate.version} is better could not be found out: {error}"
    if candidate.value > value:
        return None
    return (
        f"{stays}: its {candidate.metric} is {value:.4f}{how}, "
        f"that of version {candidate.version} is {candidate.value:.4f}"
    )


def _value_of(client: MlflowClient, candidate: Candidate, current: ModelVersion, judge: Judge) -> tuple[float, str]:
    """The present version's value on the candidate's images: as recorded if it was judged by them, else anew."""
    if all(current.tags.get(tag) == candidate.data.get(tag) for tag in DATA_TAGS) and current.run_id:
        recorded = client.get_run(current.run_id).data.metrics.get(candidate.metric)
        if recorded is not None:
            return float(recorded), ""
    return judge(current, candidate.metric), " on the images of this job"


@dataclass(frozen=True)
class ChampionJudge:
    """Judges a version by running its own model directory on this job's held-out images.

    Whoever may write to MLflow may write any address into a tag: only stores like the job's own (`own_uri`) are read.
    """

    images: Callable[[], LocalDataset]
    own_uri: str

    def __call__(self, version: ModelVersion, metric: str) -> float:
        """Raises BadData where the version's model cannot be used, and what the store raises."""
        uri = version.tags.get(URI_TAG)
        if not uri:
            raise BadData("ModelUnknown", f"version {version.version} has no tag {URI_TAG}, so nobody knows its files")
        if uri.partition("://")[0] != self.own_uri.partition("://")[0]:
            raise BadData("ModelUnknown", f"version {version.version} lies at {uri}, which this job does not read")
        folder = open_folder(uri, S3Access.from_environment(os.environ))
        with tempfile.TemporaryDirectory(prefix="bloomery-champion-") as scratch:
            champion = fetch_champion(folder, Path(scratch), digest=version.tags.get(DIGEST_TAG))
            return champion.score(self.images())[metric]


@dataclass(frozen=True)
class Champion:
    """An exported model, ready to answer."""

    network: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess

    def score(self, dataset: LocalDataset) -> dict[str, float]:
        """Its figures on the dataset's held-out images, among the classes that both know by name.

        An image of a class that it does not know is an image that it gets wrong.
        """
        if not set(self.classes) & set(dataset.classes):
            raise BadData("ClassesDiffer", "it knows none of the classes of this job")
        files = dataset.splits["test" if "test" in dataset.splits else "validation"]
        device = torch.device("cpu")
        loader = evaluation_loader(files, self.preprocess, batch=_BATCH, device=device, world=World())
        probabilities, labels = answers(self.network, loader, self.preprocess, device=device, exact=True)
        return score(by_name(probabilities, self.classes, dataset.classes), labels)


def by_name(probabilities: NDArray[np.float32], known: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.float32]:
    """Probabilities of the classes in `known`, put in the order of `wanted`; of others they are 0, and sums stay 1."""
    column = {name: number for number, name in enumerate(known)}
    found = np.zeros((len(probabilities), len(wanted)), np.float32)
    for number, name in enumerate(wanted):
        if name in column:
            found[:, number] = probabilities[:, column[name]]
    found /= np.maximum(found.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return found


def fetch_champion(folder: Folder, scratch: Path, *, digest: str | None) -> Champion:
    """Fetches a model folder, checks it against its digest, and loads it."""
    model = model_folder.require_stored(folder)
    model.require(digest)
    model.fetch(model_folder.SERVED, scratch)
    return Champion(
        network=export.OnnxNetwork(scratch / model_folder.MODEL),
        classes=model_folder.read_classes(scratch),
        preprocess=Preprocess.read((scratch / model_folder.PREPROCESS).read_bytes()),
    )
