"""Takes a model folder into MLflow's registry: one that a training wrote, or any ONNX classifier with its classes."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import onnxruntime

from bloomery_model import Preprocess
from bloomery_model.folder import LABEL_FILES, ONNX_DATA_SUFFIXES, LabelsError, parse_labels
from bloomery_trainer import model_folder
from bloomery_trainer.errors import BadConfig, BadData, TrainerError, Unavailable
from bloomery_trainer.mlflow_server import connect, experiment, in_words, is_final
from bloomery_trainer.model_folder import MODEL, PREPROCESS, digest, read_classes, write_classes
from bloomery_trainer.storage import Folder, S3Access, open_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from bloomery_trainer.tracking.mlflow_run import RunRef

log = logging.getLogger(__name__)

EXPERIMENT = "imported"
_FROM = "bloomery.dev/imported-from"
_DEFAULT_SIDE = 224


@dataclass(frozen=True, kw_only=True)
class Import:
    """What to take in, and what it is to be called."""

    uri: str
    name: str
    version_label: str | None = None
    alias: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class FetchedModel:
    """A model folder on this machine, and what is known of it."""

    digest: str
    about: Mapping[str, Any]
    """What the training that wrote it said; empty for one of elsewhere."""


def run(wanted: Import, environment: Mapping[str, str] = os.environ) -> int:
    """Imports a model; returns the exit code: 2 and 3 are mistakes to mend, 1 may be tried again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    try:
        version = import_model(wanted, environment)
    except TrainerError as error:
        log.error("%s", error)
        return error.exit_code
    print(json.dumps({"name": wanted.name, "version": version, "uri": f"models:/{wanted.name}/{version}"}))
    return 0


def import_model(wanted: Import, environment: Mapping[str, str]) -> str:
    """Fetches, checks and registers a model; returns its version.

    Raises:
        TrainerError: the folder holds no classifier that runs, or MLflow does not take it.
    """
    server = environment.get("MLFLOW_TRACKING_URI")
    if not server:
        raise BadConfig("RegistryNotConfigured", "MLFLOW_TRACKING_URI is not set: it says where MLflow is")
    if urlsplit(wanted.uri).scheme not in ("s3", "file"):
        raise BadConfig("InvalidURI", f"{wanted.uri!r} is no model folder: use s3://BUCKET/FOLDER or file:///FOLDER")
    source = open_folder(wanted.uri, S3Access.from_environment(environment))
    with tempfile.TemporaryDirectory(prefix="import-") as scratch:
        folder = Path(scratch)
        log.info("fetching %s", wanted.uri)
        fetched = fetch(source, folder)
        classes = check(folder)
        log.info("it names %d classes and runs", classes)
        return _register(wanted, fetched, folder, server)


def fetch(source: Folder, target: Path) -> FetchedModel:
    """Brings a model's files to this machine as model.onnx, labels.txt and preprocess.json; checks known digests."""
    own = model_folder.stored(source)
    if own is not None:
        own.fetch(model_folder.SERVED, target)
        return FetchedModel(own.digest, own.metadata)
    paths = sorted(file.path for file in source.list() if "/" not in file.path)
    models = [path for path in paths if path.endswith(".onnx")]
    if len(models) != 1:
        found = ", ".join(models or paths[:5]) or "nothing"
        raise BadData("NotAModel", f"a model folder has one file that ends in .onnx; {source.uri} has {found}")
    labels = next((name for name in LABEL_FILES if name in paths), None)
    if labels is None:
        raise BadData(
            "NoLabels",
            f"{source.uri} does not name the classes of {models[0]}: put labels.txt beside it, a class in each line, "
            "in the order of the model's output",
        )
    beside = [path for path in paths if path.endswith(ONNX_DATA_SUFFIXES) or path == PREPROCESS]
    targets = {models[0]: MODEL, labels: labels} | {path: path for path in beside}
    digests = {path: f"sha256:{source.download(path, target / name)}" for path, name in targets.items()}
    _name_classes(target / labels)
    return FetchedModel(digest(digests), {})


def check(folder: Path) -> int:
    """Runs the model once; returns how many classes it has. Raises BadData where it is no classifier of images."""
    labels = read_classes(folder)
    try:
        session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
        shape, name = session.get_inputs()[0].shape, session.get_inputs()[0].name
        side = _write_preprocess(folder, shape)
        (scores,) = session.run(None, {name: np.zeros((1, 3, side, side), np.float32)})
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BadData("NotAClassifier", f"the model does not run on an image: {str(error).splitlines()[0]}") from error
    if np.shape(scores) != (1, len(labels)):
        message = f"the model gives {list(np.shape(scores))} for one image, but {len(labels)} classes are named"
        raise BadData("LabelsMismatch", message)
    return len(labels)


def _write_preprocess(folder: Path, shape: list[Any]) -> int:
    """Writes what the model most likely wants where it does not say so; returns the side of its images."""
    path = folder / PREPROCESS
    if not path.exists():
        known = len(shape) == 4 and isinstance(shape[2], int)
        preprocess = Preprocess.for_size(shape[2] if known else _DEFAULT_SIDE)
        path.write_text(json.dumps(preprocess.document()), encoding="utf-8")
    return int(json.loads(path.read_bytes())["crop"])


def _name_classes(given: Path) -> None:
    """Makes labels.txt of the file that names the classes."""
    try:
        write_classes(given.parent, parse_labels(given.read_bytes(), name=given.name))
    except LabelsError as error:
        raise BadData("BadLabels", f"{given.name} names no classes: {error}") from error


def _register(wanted: Import, fetched: FetchedModel, folder: Path, server: str) -> str:
    # Imported only now: a folder that is no model is told so at once.
    from mlflow.exceptions import MlflowException

    from bloomery_trainer.publish import registry

    client = connect(server)
    model = registry.ModelMetadata(
        name=wanted.name,
        model_description=None,
        description=wanted.description or f"Imported from {wanted.uri}",
        tags=_tags(wanted, fetched),
        digest=fetched.digest,
        folder=folder,
    )
    try:
        with _run_of(client, wanted) as made:
            version = registry.register(client, made, model)
        if wanted.alias:
            client.set_registered_model_alias(wanted.name, wanted.alias, version)
    except MlflowException as error:
        kind = BadConfig if is_final(error) else Unavailable
        raise kind("NotRegistered", f"MLflow at {server} did not take the model: {in_words(error)}") from error
    return version


@contextmanager
def _run_of(client: MlflowClient, wanted: Import) -> Iterator[RunRef]:
    """Gives a run of the import's own, which ends with the block: FINISHED, or FAILED where that raises."""
    from mlflow.exceptions import MlflowException

    from bloomery_trainer.tracking.mlflow_run import RunRef

    home = experiment(client, EXPERIMENT)
    made = client.create_run(home, run_name=wanted.name, tags={_FROM: wanted.uri})
    try:
        yield RunRef(home, made.info.run_id)
    except BaseException:
        # The block's error is the one to tell.
        with suppress(MlflowException):
            client.set_terminated(made.info.run_id, "FAILED")
        raise
    client.set_terminated(made.info.run_id)


def _tags(wanted: Import, fetched: FetchedModel) -> dict[str, str]:
    """The version's tags, as those of a training's versions; pods can not fetch a folder of this machine."""
    tags = {_FROM: wanted.uri, **_lineage(fetched.about)}
    if wanted.uri.startswith("s3://"):
        tags |= {"bloomery.dev/uri": wanted.uri.rstrip("/"), "bloomery.dev/digest": fetched.digest}
    if wanted.version_label:
        tags["bloomery.dev/version-label"] = wanted.version_label
    return tags


def _lineage(about: Mapping[str, Any]) -> dict[str, str]:
    """Where a model of a training's own folder is from, as the tags of a training's versions say it."""
    from bloomery_trainer.tracking.lineage import DATA_TAGS

    dataset, version, _ = DATA_TAGS
    try:
        job, datasets, run = about["trainingJob"], about["datasets"], about["run"]["runId"]
        tags = {
            "bloomery.dev/trainingjob": f"{job['namespace']}/{job['name']}",
            dataset: ",".join(part["name"] for part in datasets),
            version: ",".join(part["version"] for part in datasets),
        }
    except (KeyError, TypeError):  # not as our trainings write it: nothing is known
        return {}
    return tags | ({"bloomery.dev/imported-run": run} if run else {})
