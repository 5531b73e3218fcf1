"""Imports a model folder into MLflow's registry: one that a training wrote, or any ONNX classifier with its classes."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bloomery_model.folder import PREPROCESS
from bloomery_model.lineage import DIGEST_TAG, IMPORTED_FROM_TAG, URI_TAG, VERSION_LABEL_TAG, read_lineage
from bloomery_trainer.errors import BadConfig, TrainerError, Unavailable
from bloomery_trainer.mlflow_server import connect, experiment, in_words, is_final
from bloomery_trainer.models.served_files import FetchedModel, fetch_model, run_once
from bloomery_trainer.storage import S3Access, open_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from bloomery_trainer.tracking.mlflow_run import RunRef

logger = logging.getLogger(__name__)

EXPERIMENT = "imported"
_ASSUMED_PREPROCESSING = (
    "the folder has no %s: ImageNet's preprocessing is assumed when the model is served (mean, standard deviation, and "
    "256 pixels of which 224 are cut out, in proportion to the model's size); add the file if it was trained otherwise"
)


@dataclass(frozen=True, kw_only=True)
class Import:
    """A model folder to import, and the names that it gets."""

    uri: str
    name: str
    version_label: str | None = None
    alias: str | None = None
    description: str | None = None


def run(request: Import, environment: Mapping[str, str] = os.environ) -> int:
    """Import a model; return the exit code: 2 and 3 are mistakes to fix, 1 may be tried again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    try:
        version = import_model(request, environment)
    except TrainerError as error:
        logger.error("%s", error)
        return error.exit_code
    print(json.dumps({"name": request.name, "version": version, "uri": f"models:/{request.name}/{version}"}))
    return 0


def import_model(request: Import, environment: Mapping[str, str]) -> str:
    """Fetch, check and register a model; return its version.

    Raises:
        TrainerError: the folder holds no classifier that runs, or MLflow does not take it.
    """
    server = environment.get("MLFLOW_TRACKING_URI")
    if not server:
        raise BadConfig("RegistryNotConfigured", "MLFLOW_TRACKING_URI is not set: it must be the address of MLflow")
    if urlsplit(request.uri).scheme not in ("s3", "file"):
        raise BadConfig("InvalidURI", f"{request.uri!r} is no model folder: use s3://BUCKET/FOLDER or file:///FOLDER")
    source = open_folder(request.uri, S3Access.from_environment(environment))
    with tempfile.TemporaryDirectory(prefix="import-") as scratch:
        folder = Path(scratch)
        logger.info("fetching %s", request.uri)
        fetched = fetch_model(source, folder)
        if not (folder / PREPROCESS).exists():
            logger.warning(_ASSUMED_PREPROCESSING, PREPROCESS)
        classes = run_once(folder)
        logger.info("it names %d classes and runs", classes)
        return _register(request, fetched, folder, server)


def _register(request: Import, fetched: FetchedModel, folder: Path, server: str) -> str:
    # Imported only now: a folder that holds no model is reported at once.
    from mlflow.exceptions import MlflowException

    from bloomery_trainer.publish import registry

    client = connect(server)
    model = registry.ModelMetadata(
        name=request.name,
        model_description=None,
        description=request.description or f"Imported from {request.uri}",
        tags=_tags(request, fetched),
        digest=fetched.digest,
        folder=folder,
    )
    try:
        with _own_run(client, request) as run:
            version = registry.register(client, run, model)
        if request.alias:
            client.set_registered_model_alias(request.name, request.alias, version)
    except MlflowException as error:
        kind = BadConfig if is_final(error) else Unavailable
        raise kind("NotRegistered", f"MLflow at {server} did not take the model: {in_words(error)}") from error
    return version


@contextmanager
def _own_run(client: MlflowClient, request: Import) -> Iterator[RunRef]:
    """Yield a run of the import's own, which ends with the block: FINISHED, or FAILED if that raises."""
    from mlflow.exceptions import MlflowException

    from bloomery_trainer.mlflow_artifacts import require_reachable
    from bloomery_trainer.tracking.mlflow_run import RunRef

    home = experiment(client, EXPERIMENT)
    run = client.create_run(home, run_name=request.name, tags={IMPORTED_FROM_TAG: request.uri})
    try:
        require_reachable(run.info.artifact_uri, client.tracking_uri)
        yield RunRef(home, run.info.run_id)
    except BaseException:
        # The block's error is the one to report.
        with suppress(MlflowException):
            client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id)


def _tags(request: Import, fetched: FetchedModel) -> dict[str, str]:
    """Return the version's tags, as those of a training's versions; pods cannot fetch a folder of this machine."""
    tags = {IMPORTED_FROM_TAG: request.uri, **read_lineage(fetched.about).tags}
    if request.uri.startswith("s3://"):
        tags |= {URI_TAG: request.uri.rstrip("/"), DIGEST_TAG: fetched.digest}
    if request.version_label:
        tags[VERSION_LABEL_TAG] = request.version_label
    return tags
