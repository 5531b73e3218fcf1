"""Recording a training that MLflow could not take when it ended, from what it left in its output folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bloomery_model import Preprocess
from bloomery_model.folder import METADATA, read_labels
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.dataset import LocalDataset, fetch
from bloomery_trainer.data.images import leave_out_unreadable
from bloomery_trainer.distributed.world import World
from bloomery_trainer.errors import BadConfig, TrainerError, Unavailable
from bloomery_trainer.mlflow_server import in_words, is_final, is_forbidden
from bloomery_trainer.model_folder import FILES, require_stored
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.output import LOG, RESULT
from bloomery_trainer.publish.mlflow_publisher import MlflowPublisher, TrainedModel, open_publisher
from bloomery_trainer.recipe import Recipe
from bloomery_trainer.reports.evaluation import EVALUATION, PAGE, PREDICTIONS, SUSPECTS
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.tracking.tensorboard import fetch_events, read_events

logger = logging.getLogger(__name__)


def register_later(
    config: TrainConfig, output: Folder, scratch: Path, environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Make the run, its metrics and files, the model version and its promotion, and complete result.json.

    Done again, it finds what is there already.

    Raises:
        BadConfig: there is no training to record, or MLflow refuses it for good.
        Unavailable: MLflow does not answer.
    """
    result = _read_result(config, output)
    if result["reason"] == "Evaluated" or result["model"]["version"] is not None:
        logger.info("this training is recorded already")
        return result
    model = _fetch_model(result, output, scratch)
    scalars = sorted(read_events(scratch / "tensorboard"), key=lambda scalar: scalar.time)
    origin = (result.get("initialModel") or {}).get("origin")
    began = scalars[0].time if scalars else None
    publisher = _open_publisher(config, environment, scratch, output, began=began, origin=origin)
    for scalar in scalars:
        publisher.run.log({scalar.name: scalar.value}, scalar.step, at=scalar.time)
    version = _register(publisher, model)
    promoted = publisher.promote(version, model, lambda: _fetch_held_out(config, scratch / "images"))
    if (scratch / LOG).exists():
        publisher.log_file(scratch / LOG)
    publisher.run.close("FINISHED")
    return _complete_result(result, output, publisher.run.run_document(), version, promoted)


def _read_result(config: TrainConfig, output: Folder) -> dict[str, Any]:
    content = output.read_if_there(RESULT)
    if content is None:
        raise BadConfig("NothingToRegister", f"there is no {RESULT} in {output.uri}: the training has not ended")
    result: dict[str, Any] = json.loads(content)
    if result.get("uid") != config.uid:
        raise BadConfig("OutputTaken", f"{output.uri} holds the result of another job")
    return result


def _fetch_model(result: Mapping[str, Any], output: Folder, scratch: Path) -> TrainedModel:
    """Bring the model, the reports, the events and the log here; raise BadData if the model is damaged."""
    for name in ("model", "reports", "tensorboard", "images"):
        (scratch / name).mkdir()
    model = require_stored(output, "model/")
    model.require(result["model"]["digest"])
    model.fetch(FILES, scratch / "model")
    for name in (EVALUATION, PAGE, PREDICTIONS):
        _fetch_if_there(output, name, scratch / "reports" / name)
    suspects = output.read_if_there(SUSPECTS)
    if suspects is not None:
        # Trainings of earlier versions, and those whose labels could not be examined, have none.
        (scratch / "reports" / SUSPECTS).write_bytes(suspects)
    _fetch_if_there(output, LOG, scratch / LOG)
    fetch_events(output, scratch / "tensorboard")
    return TrainedModel(
        folder=scratch / "model",
        reports=scratch / "reports",
        digest=result["model"]["digest"],
        classes=len(read_labels(scratch / "model")),
        metrics=result["metrics"],
        evaluated_on=result.get("evaluatedOn"),
        quantization=model.metadata.get("quantization"),
    )


def _fetch_if_there(output: Folder, name: str, target: Path) -> None:
    try:
        output.download(name, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        logger.warning("there is no %s in %s", name, output.uri)


def _open_publisher(
    config: TrainConfig,
    environment: Mapping[str, str],
    scratch: Path,
    output: Folder,
    *,
    began: float | None,
    origin: str | None,
) -> MlflowPublisher:
    # Models of earlier versions do not say how they were trained.
    document = require_stored(output, "model/").metadata.get("recipe")
    recipe = Recipe.of_document(document) if document else None
    return open_publisher(
        config, recipe, environment, events=scratch / "tensorboard", live=False, began=began, origin=origin
    )


def _register(publisher: MlflowPublisher, model: TrainedModel) -> str:
    try:
        return publisher.register_or_raise(model)
    except TrainerError:
        raise
    except Exception as error:
        reason = in_words(error)
        if is_final(error) and not is_forbidden(error):
            raise BadConfig("MlflowRefused", f"MLflow refuses the model: {reason}") from error
        raise Unavailable("MlflowUnavailable", f"MLflow did not take the model: {reason}") from error


def _fetch_held_out(config: TrainConfig, scratch: Path) -> LocalDataset:
    access = S3Access.from_environment(os.environ)
    dataset = fetch(config.datasets, lambda uri: open_folder(uri, access), scratch, splits=("validation", "test"))
    return leave_out_unreadable(dataset, Preprocess.for_size(PRESETS[config.preset].image_size), world=World())


def _complete_result(
    result: dict[str, Any],
    output: Folder,
    run: Mapping[str, str | None],
    version: str,
    promoted: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write the version and the run where the training would have; the result last, as it is the proof."""
    metadata = dict(require_stored(output, "model/").metadata)
    metadata |= {"run": dict(run), "registered": datetime.now(UTC).isoformat(timespec="seconds")}
    metadata["model"] = {**metadata.get("model", {}), "version": version}
    output.write(f"model/{METADATA}", json.dumps(metadata, ensure_ascii=False, indent=1).encode())
    completed = {
        **result,
        "mlflow": dict(run),
        "model": {**result["model"], "version": version},
        "promoted": None if promoted is None else dict(promoted),
    }
    output.write(RESULT, json.dumps(completed, ensure_ascii=False, indent=1).encode())
    return completed
