"""The ``train`` command, from its configuration to the result: each step in its own function, in order."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bloomery_trainer.torch_runtime  # noqa: F401  (its settings are read when torch is loaded)

# isort: split
import numpy as np
import torch
from torch import nn

from bloomery_model.folder import METADATA, MODEL, model_digest
from bloomery_model.references import REFERENCES
from bloomery_trainer import model_folder
from bloomery_trainer.commands import evaluate
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.data.images import views
from bloomery_trainer.distributed.world import World, joined, leads, peers_watched
from bloomery_trainer.engine import training
from bloomery_trainer.engine.attempts import counted_start
from bloomery_trainer.engine.calibration import Calibration, calibrate, rescaled
from bloomery_trainer.engine.context import RunContext, build_run_context
from bloomery_trainer.engine.evaluation import TOP_K
from bloomery_trainer.engine.held_out import EvaluationResult, HeldOutImages, HeldOutSplit
from bloomery_trainer.engine.suspects import examine_labels
from bloomery_trainer.engine.training import TrainingResult
from bloomery_trainer.errors import BadConfig, TrainerError
from bloomery_trainer.models import export, quantize
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.models.presets import find_preset
from bloomery_trainer.models.quantize import Decision, Quantization
from bloomery_trainer.output import LOG, RESULT, model_uri
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.publish.mlflow_publisher import TrainedModel
from bloomery_trainer.publish.results import opened_record, publish_reports, report_metadata, write_result
from bloomery_trainer.publish.run_record import RunRecord
from bloomery_trainer.recipe import trains_by_steps
from bloomery_trainer.shutdown import Shutdown, Terminated
from bloomery_trainer.storage import Folder, S3Access, open_folder

logger = logging.getLogger(__name__)

_EXAMPLES = 8


def train(config: TrainConfig, progress: Progress, shutdown: Shutdown) -> dict[str, Any]:
    """Train, evaluate, write and register a model; return the result for the termination message.

    Where the output holds this job's result already, a pod came that far before: it is returned as it is. Of
    several processes, the leader returns the result, the others an empty one.
    """
    find_preset(config.preset)
    access = S3Access.from_environment(os.environ)
    output = open_folder(config.output.uri, access, create=True)
    done = _read_earlier_result(config, output)
    if done is not None:
        logger.info("this job has ended before; its result stands")
        return done
    with ExitStack() as stack:
        scratch = _open_scratch(stack)
        starts = 0
        if leads(config, os.environ):
            starts = stack.enter_context(counted_start(output, has_steps=_has_steps(config)))
        world = stack.enter_context(joined(config, os.environ))
        if world.is_leader:
            stack.enter_context(_log_kept_in_output(config, access, scratch))
        stack.enter_context(peers_watched())
        progress.update(stage="reading")
        context = build_run_context(config, progress, shutdown, world, access, scratch)
        return _run(replace(context, starts=starts))


def _has_steps(config: TrainConfig) -> bool:
    return not config.evaluate_only and trains_by_steps(config.hyperparameters)


def _read_earlier_result(config: TrainConfig, output: Folder) -> dict[str, Any] | None:
    """Raise BadConfig if the output folder is another job's."""
    content = output.read_if_there(RESULT)
    if content is None:
        return None
    result: dict[str, Any] = json.loads(content)
    if result.get("uid") != config.uid:
        raise BadConfig(
            "OutputTaken", f"{config.output.uri} holds the result of another job: give this one a folder of its own"
        )
    return result


def _open_scratch(stack: ExitStack) -> Path:
    """Return a local folder; the processes of one node share theirs."""
    shared = os.environ.get("BLOOMERY_SCRATCH")
    return Path(shared or stack.enter_context(tempfile.TemporaryDirectory(prefix="bloomery-")))


def _run(context: RunContext) -> dict[str, Any]:
    if context.config.evaluate_only:
        return evaluate.evaluate(context)
    initial = context.started_from()
    context.progress.update(initialModel=initial.document())
    start = initial if initial.is_pretrained else None
    dataset = context.dataset(("train", "validation", "test"))
    context = training.with_recipe(context, dataset, start)
    context.progress.update(recipe=context.recipe.parameters())
    with opened_record(context, origin=initial.origin) as record:
        _require_usable_metric(context, dataset)
        result = training.train_model(context, dataset, start, record)
        if initial.warning:
            logger.warning("%s", initial.warning)
            result = replace(result, notes=(initial.warning, *result.notes))
        return _publish(context, dataset, result, record, start)


def _publish(
    context: RunContext, dataset: LocalDataset, result: TrainingResult, record: RunRecord, start: Initial | None
) -> dict[str, Any]:
    """Export the best weights, evaluate the exported file, and hand it over; all by the leader."""
    if not context.world.is_leader:
        return {}
    held_out = HeldOutImages.of(
        dataset, context.preprocess, context.shutdown, budget=context.memory, cache=context.scratch_cache
    )
    folder = _export(context, result.model, dataset, held_out)
    exported = _evaluate_exported(context, dataset, folder, held_out)
    if exported.quantization is not None:
        record.log(exported.quantization.metrics(), 0)
        result = replace(result, notes=(*result.notes, exported.quantization.sentence))
    files = model_folder.file_digests(folder)
    references = _write_references(context, folder, held_out, split=exported.evaluation.split)
    for name in (*files, *([REFERENCES] if references else ())):
        context.output.upload(folder / name, f"model/{name}")
    evaluation, calibration = exported.evaluation, exported.calibration
    record.log(calibration.metrics(), 0)
    report = report_metadata(
        context,
        dataset,
        evaluation,
        result,
        data_type=exported.data_type,
        calibration=calibration,
        suspects=examine_labels(context, dataset, result, start),
    )
    model = TrainedModel(
        folder=folder,
        reports=publish_reports(context, report),
        digest=model_digest(files),
        classes=len(dataset.classes),
        metrics=evaluation.final.metrics,
        evaluation=evaluation.final,
        evaluated_on=evaluation.split,
        quantization=exported.quantization.document() if exported.quantization else None,
        calibration=calibration.document(),
        statistics=report.statistics | references,
    )
    context.progress.update(stage="registering")
    return _finish(context, record, model, result, dataset)


@dataclass(frozen=True, kw_only=True)
class _Exported:
    """The answers of the file that will be served, and how it came to its form."""

    evaluation: EvaluationResult
    calibration: Calibration
    quantization: Quantization | None

    @property
    def data_type(self) -> str:
        return "int8" if self.quantization is not None and self.quantization.is_better else "float32"


def _export(context: RunContext, model: nn.Module, dataset: LocalDataset, held_out: HeldOutImages) -> Path:
    folder = context.scratch / "model"
    folder.mkdir()
    examples = held_out.examples(_EXAMPLES)
    # On the CPU in the usual memory layout, whatever suited the device.
    model = model.cpu().to(memory_format=torch.contiguous_format)
    export.write_model(folder, model, classes=dataset.classes, preprocess=context.preprocess, examples=examples)
    return folder


def _evaluate_exported(context: RunContext, dataset: LocalDataset, folder: Path, held_out: HeldOutImages) -> _Exported:
    """Evaluate model.onnx, in int8 where that was asked for and is worth while, and put its temperature into it."""
    model = folder / MODEL
    if context.config.output.quantization != "Int8":
        evaluation = _evaluate_file(context, model, held_out)
        return _calibrate(evaluation, model, quantization=None)
    earlier = quantize.recorded(context.output, folder, uid=context.config.uid)
    evaluation = _evaluate_file(context, model, held_out)
    if earlier is not None:
        logger.info("the form of the model was decided by an earlier start")
        plain = rescaled(evaluation, 1 / earlier.temperature)
        calibration = calibrate(plain, temperature=earlier.temperature)
        return _Exported(evaluation=evaluation, calibration=calibration, quantization=earlier.quantization)
    context.progress.update(stage="quantizing")
    quantization, evaluation = _quantize(context, dataset, model, held_out, evaluation)
    exported = _calibrate(evaluation, model, quantization=quantization)
    # How fast a form is depends on the moment: a start after this one must not decide otherwise.
    decision = Decision(quantization, exported.calibration.temperature)
    quantize.record(decision, context.output, folder, uid=context.config.uid)
    return exported


def _write_references(
    context: RunContext, folder: Path, held_out: HeldOutImages, *, split: HeldOutSplit
) -> dict[str, Any]:
    """Write held-out images with the answers of model.onnx; return their description, empty if nobody wants them."""
    if not context.config.output.references:
        return {}
    references = held_out.references(export.OnnxNetwork(folder / MODEL), split=split)
    return model_folder.write_references(folder, references, split=split)


def _evaluate_file(context: RunContext, model: Path, held_out: HeldOutImages) -> EvaluationResult:
    context.progress.update(stage="evaluating")
    return held_out.evaluate(export.OnnxNetwork(model))


def _calibrate(evaluation: EvaluationResult, model: Path, *, quantization: Quantization | None) -> _Exported:
    """Fit the temperature of a file's answers, and make the file divide its logits by it."""
    calibration = calibrate(evaluation)
    export.divide_logits(model, calibration.temperature)
    logger.info(
        "temperature %.3f: expected calibration error %.4f, without it %.4f",
        calibration.temperature,
        calibration.after.error,
        calibration.before.error,
    )
    evaluation = rescaled(evaluation, calibration.temperature)
    return _Exported(evaluation=evaluation, calibration=calibration, quantization=quantization)


def _quantize(
    context: RunContext, dataset: LocalDataset, model: Path, held_out: HeldOutImages, evaluation: EvaluationResult
) -> tuple[Quantization, EvaluationResult]:
    """Put the model's int8 form in its place if that is worth while; return what came of it, and the answers of
    the model that is there now.
    """
    candidate = context.scratch / "int8.onnx"
    quantize.write_int8(model, candidate, _calibration_images(context, dataset))
    logger.info("the same in int8:")
    other = held_out.evaluate(export.OnnxNetwork(candidate))
    float_ms, int8_ms = quantize.milliseconds(model, candidate)
    metric = context.config.metric
    quantization = Quantization(
        metric=metric,
        split=evaluation.split,
        float32=quantize.ModelVariantStats(value=evaluation.final.metrics[metric], milliseconds=float_ms),
        int8=quantize.ModelVariantStats(value=other.final.metrics[metric], milliseconds=int8_ms),
        calibration_images=min(quantize.CALIBRATION_IMAGES, len(dataset.splits["train"])),
    )
    logger.info("%s", quantization.sentence)
    if not quantization.is_better:
        return quantization, evaluation
    candidate.replace(model)
    return quantization, other


def _calibration_images(context: RunContext, dataset: LocalDataset) -> Iterator[quantize.Images]:
    files = dataset.splits["train"]
    chosen = np.linspace(0, len(files) - 1, min(quantize.CALIBRATION_IMAGES, len(files))).round().astype(int)
    for _, pixels in views(files, context.preprocess, chosen, count=1, seed=0, world=World()):
        yield normalise(pixels, context.preprocess).numpy()


def _finish(
    context: RunContext, record: RunRecord, model: TrainedModel, result: TrainingResult, dataset: LocalDataset
) -> dict[str, Any]:
    """Register the model, complete its directory, and only then write the result."""
    version = record.register(model)
    promoted = record.promote(version, model, lambda: dataset) if version is not None else None
    metadata = _model_metadata(context, record, model, version)
    context.output.write(f"model/{METADATA}", model_folder.metadata(model.folder, metadata))
    more = {
        "model": {**metadata["model"], "uri": model_uri(context.config), "digest": model.digest},
        "metrics": model.metrics,
        "evaluatedOn": model.evaluated_on,
        "promoted": promoted,
        "quantization": model.quantization,
        "notes": list(result.notes),
    }
    return write_result(context, record, result, more)


def _model_metadata(context: RunContext, record: RunRecord, model: TrainedModel, version: str | None) -> dict[str, Any]:
    """Return the origin of the model, for its metadata."""
    config = context.config
    return {
        "preset": config.preset,
        "imageSize": context.recipe.image_size,
        "recipe": context.recipe.document(),
        "metrics": dict(model.metrics),
        "evaluatedOn": model.evaluated_on,
        "quantization": model.quantization,
        "calibration": model.calibration,
        **model.statistics,
        "trainingJob": {"namespace": config.namespace, "name": config.name, "uid": config.uid},
        "datasets": [{"name": part.name, "version": part.version} for part in config.datasets],
        "run": record.run_document(),
        "model": {"name": config.mlflow.registered_model, "version": version},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _require_usable_metric(context: RunContext, dataset: LocalDataset) -> None:
    if context.config.metric == "top5" and len(dataset.classes) <= TOP_K:
        raise BadConfig(
            "InvalidConfig",
            f"metric top5 says nothing about {len(dataset.classes)} classes, as one of five answers is always right; "
            "use top1, precision, recall, f1 or balanced",
        )


@contextmanager
def _log_kept_in_output(config: TrainConfig, access: S3Access, scratch: Path) -> Iterator[None]:
    """Keep this run's log as a file, and leave it in the output folder however the run ends."""
    path = scratch / LOG
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("bloomery_trainer")
    root.addHandler(handler)
    try:
        yield
    except TrainerError as error:
        logger.error("%s", error)
        raise
    except Exception as error:
        if not isinstance(error, Terminated):
            logger.exception("the run failed")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
        for uri in filter(None, (config.output.uri, config.output.log_uri)):
            try:
                open_folder(uri, access, create=True).upload(path, LOG)
            except TrainerError as error:
                logger.warning("the log could not be kept at %s: %s", uri, error)
