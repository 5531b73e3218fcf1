"""Moving the registry's alias to a new model version, if it is good enough and better than today's."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from numpy.typing import NDArray

from bloomery_model.lineage import DIGEST_TAG, URI_TAG
from bloomery_trainer.class_names import normalize_class_name
from bloomery_trainer.config import Promotion
from bloomery_trainer.data.dataset import ImageFiles, LocalDataset
from bloomery_trainer.data.loader import evaluation_loader
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine.evaluation import Evaluation, answers
from bloomery_trainer.errors import BadData, TrainerError, Unavailable
from bloomery_trainer.models.classifier import Classifier, fetch_classifier, load_classifier
from bloomery_trainer.publish.comparison import Comparison, compare
from bloomery_trainer.storage import S3Access, open_folder
from bloomery_trainer.tracking.lineage import DATA_TAGS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

_BATCH = 64
_ROUNDING = 1e-9
_NOT_THERE = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}
"""MLflow's errors for an alias that does not exist."""

Judge = Callable[["ModelVersion", str], tuple[Comparison, str]]
"""Compares the candidate with a model version by a metric, on the images of the candidate's evaluation; returns the
comparison and the split of these images."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The new version, its value of the metric that counts, and the tags of the images that it was evaluated on."""

    name: str
    version: str
    metric: str
    value: float
    data: Mapping[str, str]


def promote(client: MlflowClient, policy: Promotion, candidate: Candidate, judge: Judge) -> dict[str, Any]:
    """Move the alias, or leave it where it is: {alias, moved, message}; raise what MLflow or the store raises."""
    current = _current_version(client, candidate.name, policy.alias)
    while True:
        if _number(current) == candidate.version:
            return _promotion_result(policy, f"{policy.alias} is version {candidate.version} already", moved=True)
        reason, remark = _too_low(policy, candidate), ""
        if reason is None:
            reason, remark = _not_better(client, policy, candidate, current, judge)
        if reason is not None:
            return _promotion_result(policy, reason, moved=False)
        # To judge a model takes minutes, in which another training, or a person, may have moved the alias.
        judged, current = current, _current_version(client, candidate.name, policy.alias)
        if _number(current) == _number(judged):
            break
    client.set_registered_model_alias(candidate.name, policy.alias, candidate.version)
    before = "there was none before" if current is None else f"it was version {current.version} before"
    return _promotion_result(policy, f"{policy.alias} is version {candidate.version} now; {before}{remark}", moved=True)


def _number(version: ModelVersion | None) -> str | None:
    return None if version is None else str(version.version)


def _promotion_result(policy: Promotion, message: str, *, moved: bool) -> dict[str, Any]:
    logger.info("%s", message)
    return {"alias": policy.alias, "moved": moved, "message": message}


def _current_version(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise


def _too_low(policy: Promotion, candidate: Candidate) -> str | None:
    if policy.at_least is None or candidate.value >= policy.at_least:
        return None
    return (
        f"{policy.alias} stays where it is: {candidate.metric} of version {candidate.version} is "
        f"{candidate.value:.4f}, at least {policy.at_least:g} is asked for"
    )


def _not_better(
    client: MlflowClient, policy: Promotion, candidate: Candidate, current: ModelVersion | None, judge: Judge
) -> tuple[str | None, str]:
    """Return why the alias stays, or None if it moves, and a remark for either case."""
    if not policy.better_than_current or current is None:
        return None, ""
    stays = f"{policy.alias} stays version {current.version}"
    try:
        present = _compare_with_current(client, candidate, current, judge)
    except Unavailable:  # another try may find the model's files
        raise
    except (TrainerError, FileNotFoundError) as error:
        return f"{stays}: whether version {candidate.version} is better could not be found out: {error}", ""
    value = candidate.value if present.comparison is None else present.comparison.value
    figures = (
        f"its {candidate.metric} is {present.value:.4f}{present.how}, that of version {candidate.version} is "
        f"{value:.4f}{present.interval}"
    )
    gain = value - present.value
    if gain <= 0 or gain <= policy.least_gain + _ROUNDING:
        least = f"; more than {policy.least_gain:g} more is asked for" if policy.least_gain else ""
        return f"{stays}: {figures}{least}{present.caveat}", ""
    unproven = _unproven(policy, present)
    if unproven is not None:
        return f"{stays}: {figures}; {unproven}{present.caveat}", ""
    return None, f"; {figures}{present.caveat}"


def _unproven(policy: Promotion, present: _PresentModel) -> str | None:
    """Return why the required confidence is missing, or None if it is there."""
    if policy.confidence is None:
        return None
    required = f"a confidence of {policy.confidence:g} is asked for"
    if present.comparison is None:
        return f"{required}, which needs both models' answers, and those of the present one are not to be had"
    confidence = 1 - present.comparison.p_value
    # The last digits of a binomial sum must not decide.
    if confidence >= policy.confidence - _ROUNDING:
        return None
    return f"{required}, and that the difference is not by chance has {confidence:.4f}"


@dataclass(frozen=True, kw_only=True)
class _PresentModel:
    """The present version's value, where it is from, and, where both answered the same images, the comparison."""

    value: float
    how: str = ""
    comparison: Comparison | None = None
    split: str | None = None

    @property
    def interval(self) -> str:
        if self.comparison is None:
            return ""
        low, high = self.comparison.low, self.comparison.high
        return f" (95 % interval of the difference {low:+.4f} to {high:+.4f})"

    @property
    def caveat(self) -> str:
        if self.split != "validation":
            return ""
        return (
            ". These are the validation images, by which the best epoch of the new version was chosen, so the "
            "comparison is kind to it; test images (split.test of the Dataset) would settle it"
        )


def _compare_with_current(
    client: MlflowClient, candidate: Candidate, current: ModelVersion, judge: Judge
) -> _PresentModel:
    """Evaluate the present version on the candidate's images; if it cannot run any more, take its recorded value."""
    try:
        comparison, split = judge(current, candidate.metric)
    except Unavailable:
        raise
    except (TrainerError, FileNotFoundError):
        recorded = _recorded_value(client, candidate, current)
        if recorded is None:
            raise
        logger.warning("version %s cannot be evaluated again: its recorded value is used", current.version)
        return _PresentModel(value=recorded, how=" as recorded")
    return _PresentModel(value=comparison.other, how=" on the images of this job", comparison=comparison, split=split)


def _recorded_value(client: MlflowClient, candidate: Candidate, current: ModelVersion) -> float | None:
    """Return the value that was recorded when the version was made, if that was on the candidate's images."""
    if not current.run_id or any(current.tags.get(tag) != candidate.data.get(tag) for tag in DATA_TAGS):
        return None
    value = client.get_run(current.run_id).data.metrics.get(candidate.metric)
    return None if value is None else float(value)


def remembered(judge: Judge) -> Judge:
    """Return the same judge with a memory, so that a retry of a request to MLflow does not run a model again."""
    verdicts: dict[tuple[str, str], tuple[Comparison, str]] = {}

    def ask(version: ModelVersion, metric: str) -> tuple[Comparison, str]:
        key = (str(version.version), metric)
        if key not in verdicts:
            verdicts[key] = judge(version, metric)
        return verdicts[key]

    return ask


@dataclass(frozen=True)
class PairedJudge:
    """Compares the candidate with a version by running that version's own files on this job's held-out images.

    Users of MLflow can write any address into a tag, so only stores like the job's own (``own_uri``) are read.

    Attributes:
        images: returns the images that the candidate was evaluated on.
        evaluation: the candidate's answers on them; None if its files (``folder``) have to be asked again.
        folder: the candidate's model folder on this machine.
        own_uri: the job's output folder.
    """

    images: Callable[[], LocalDataset]
    evaluation: Evaluation | None
    folder: Path
    own_uri: str

    def __call__(self, version: ModelVersion, metric: str) -> tuple[Comparison, str]:
        """Compare; raise BadData if the version's model cannot be used, and what the store raises."""
        uri = version.tags.get(URI_TAG)
        if not uri:
            raise BadData("ModelUnknown", f"version {version.version} has no tag {URI_TAG}, so its files are not known")
        if uri.partition("://")[0] != self.own_uri.partition("://")[0]:
            raise BadData("ModelUnknown", f"version {version.version} lies at {uri}, which this job does not read")
        folder = open_folder(uri, S3Access.from_environment(os.environ))
        with tempfile.TemporaryDirectory(prefix="bloomery-champion-") as scratch:
            champion = fetch_classifier(folder, Path(scratch), digest=version.tags.get(DIGEST_TAG))
            dataset = self.images()
            if not _spelled(champion.classes) & _spelled(dataset.classes):
                raise BadData("ClassesDiffer", "it knows none of the classes of this job")
            split = "test" if "test" in dataset.splits else "validation"
            theirs, labels = _answers(champion, dataset.splits[split])
        ours = self._own_answers(dataset, split)
        return compare(metric, ours, by_name(theirs, champion.classes, dataset.classes), labels), split

    def _own_answers(self, dataset: LocalDataset, split: str) -> NDArray[np.float32]:
        if self.evaluation is not None:
            return self.evaluation.probabilities
        classifier = load_classifier(self.folder)
        probabilities, _ = _answers(classifier, dataset.splits[split])
        return by_name(probabilities, classifier.classes, dataset.classes)


def _spelled(classes: Iterable[str]) -> set[str]:
    return set(map(normalize_class_name, classes))


def _answers(classifier: Classifier, files: ImageFiles) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    device = torch.device("cpu")
    loader = evaluation_loader(files, classifier.preprocess, batch=_BATCH, device=device, world=World())
    return answers(classifier.network, loader, classifier.preprocess, device=device, exact=True)


def by_name(
    probabilities: NDArray[np.float32], known: tuple[str, ...], classes: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return the probabilities of the classes in ``known``, put in the order of ``classes``.

    Of others they are 0, and sums stay 1. Names are compared as class names are spelled.
    """
    column = {normalize_class_name(name): number for number, name in enumerate(known)}
    ordered = np.zeros((len(probabilities), len(classes)), np.float32)
    for number, name in enumerate(classes):
        if (spelled := normalize_class_name(name)) in column:
            ordered[:, number] = probabilities[:, column[spelled]]
    ordered /= np.maximum(ordered.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return ordered
