"""The model in MLflow: the run's files, the model in the ONNX flavour, and its version in the registry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TypeVar

import mlflow
import numpy as np
import onnx
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from bloomery_model.folder import LABELS, MODEL, PREPROCESS, read_labels
from bloomery_model.lineage import DIGEST_TAG
from bloomery_model.preprocess import Preprocess
from bloomery_trainer.mlflow_server import in_words, is_final
from bloomery_trainer.tracking.mlflow_run import RunRef

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MAX_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """A model to register: its name in the registry, what it and its version are called there, its local files."""

    name: str
    model_description: str | None
    description: str
    tags: Mapping[str, str]
    digest: str
    folder: Path


def retry_for(seconds: float, action: Callable[[], Result]) -> Result:
    """Try ``action`` until it succeeds; raise its error when MLflow is away for so long, or refuses for good.

    The time counts from the first failure on: an action may take longer by itself.
    """
    failing_since: float | None = None

    def is_over(state: RetryCallState) -> bool:
        nonlocal failing_since
        now = state.outcome_timestamp or 0.0
        failing_since = now if failing_since is None else failing_since
        return now + state.upcoming_sleep - failing_since >= seconds

    retrying = Retrying(
        stop=is_over,
        wait=wait_exponential(max=_MAX_PAUSE_SECONDS),
        retry=retry_if_exception(_may_pass),
        before_sleep=_log_retry,
        reraise=True,
    )
    return retrying(action)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not is_final(error)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, Exception):
        logger.info("waiting for MLflow: %s", in_words(error))


def register(client: MlflowClient, run: RunRef, model: ModelMetadata) -> str:
    """Log the model to the run and register it; return the version.

    A version that this run has registered already with the same files is found again, not made twice.
    """
    for known in client.search_model_versions(f"run_id = '{run.run_id}'"):
        if known.name == model.name and known.tags.get(DIGEST_TAG) == model.digest:
            return str(known.version)
    _require_registered_model(client, model.name, model.model_description)
    loaded = onnx.load(model.folder / MODEL)
    logged = Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.onnx,
        run_id=run.run_id,
        onnx_model=loaded,
        signature=_signature_of(loaded.graph, model.folder),
        # Named here, because MLflow would find them out by running the model in a process of its own.
        pip_requirements=[f"{name}=={installed(name)}" for name in ("onnx", "onnxruntime", "numpy")],
        save_as_external_data=False,
        extra_files=[str(model.folder / name) for name in (LABELS, PREPROCESS)],
    )
    version = client.create_model_version(
        model.name,
        source=logged.model_uri,
        run_id=run.run_id,
        tags=dict(model.tags),
        description=model.description,
        await_creation_for=60,
        model_id=logged.model_id,
    )
    logger.info("registered as %s version %s", model.name, version.version)
    return str(version.version)


def _signature_of(graph: onnx.GraphProto, folder: Path) -> ModelSignature:
    """Return the inputs and outputs of the model, as MLflow records them."""
    side = Preprocess.read((folder / PREPROCESS).read_bytes()).crop
    # Older models list their weights among the inputs.
    weights = {weight.name for weight in graph.initializer}
    (images,) = (tensor.name for tensor in graph.input if tensor.name not in weights)
    (scores,) = (tensor.name for tensor in graph.output)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, side, side), images)]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(read_labels(folder))), scores)]),
    )


def _require_registered_model(client: MlflowClient, name: str, description: str | None) -> None:
    """Make the registered model, and describe it unless people have done so."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        if description and not client.get_registered_model(name).description:
            client.update_registered_model(name, description)
