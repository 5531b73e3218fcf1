"""The `train` command, from its configuration to the result: each step in its own function, in order."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bloomery_trainer import model_folder
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.errors import BadConfig, TrainerError
from bloomery_trainer.progress import Progress
from bloomery_trainer.shutdown import Shutdown, Terminated
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.train import export, fitting, quantize
from bloomery_trainer.train.data import normalise, unreadable_note, views
from bloomery_trainer.train.dataset import LocalDataset
from bloomery_trainer.train.evaluate import TOP_K, Evaluation, interval95
from bloomery_trainer.train.fitting import Fitted
from bloomery_trainer.train.initial import Initial
from bloomery_trainer.train.job import Job, describe
from bloomery_trainer.train.output import LOG, RESULT, model_uri
from bloomery_trainer.train.presets import PRESETS
from bloomery_trainer.train.quantize import Quantization
from bloomery_trainer.train.record import NoRecord, Record, TrainedModel, open_record
from bloomery_trainer.train.report import ReportAbout, write_reports
from bloomery_trainer.train.world import World, joined, peers_watched

log = logging.getLogger(__name__)

_EXAMPLES = 8


def train(config: TrainConfig, progress: Progress, shutdown: Shutdown) -> dict[str, Any]:
    """Trains, evaluates, writes and registers a model; returns the result for the termination message.

    Where the output holds this job's result already, a pod came that far before: it is returned as it is. Of
    several processes, the leader returns the result, the others an empty one.
    """
    access = S3Access.from_environment(os.environ)
    output = open_folder(config.output.uri, access, create=True)
    done = _earlier_result(config, output)
    if done is not None:
        log.info("this job has ended before; its result stands")
        return done
    with ExitStack() as stack:
        scratch = _scratch(stack)
        world = stack.enter_context(joined(config, os.environ))
        if world.is_leader:
            stack.enter_context(_logged(config, access, scratch))
        stack.enter_context(peers_watched())
        progress.update(stage="reading")
        return _run(describe(config, progress, shutdown, world, access, scratch))


def _earlier_result(config: TrainConfig, output: Folder) -> dict[str, Any] | None:
    """Raises BadConfig where the output folder is another job's."""
    content = output.read_if_there(RESULT)
    if content is None:
        return None
    result: dict[str, Any] = json.loads(content)
    if result.get("uid") != config.uid:
        raise BadConfig(
            "OutputTaken", f"{config.output.uri} holds the result of another job: give this one a folder of its own"
        )
    return result


def _scratch(stack: ExitStack) -> Path:
    """A local folder; the processes of one node share theirs."""
    shared = os.environ.get("BLOOMERY_SCRATCH")
    return Path(shared or stack.enter_context(tempfile.TemporaryDirectory(prefix="bloomery-")))


def _run(job: Job) -> dict[str, Any]:
    initial = job.started_from()
    job.progress.update(initialModel=initial.document())
    start = initial if initial.is_pretrained else None
    splits = ("validation", "test") if job.config.evaluate_only else ("train", "validation", "test")
    dataset = job.dataset(splits)
    job = fitting.with_recipe(job, dataset, start)
    record = _record(job, initial)
    try:
        if job.config.evaluate_only:
            assert start is not None
            result = _evaluate_only(job, dataset, start, record)
        else:
            _refuse_unfit(job, dataset)
            fitted = fitting.fit(job, dataset, start, record)
            if initial.warning:
                log.warning("%s", initial.warning)
                fitted = replace(fitted, notes=(initial.warning, *fitted.notes))
            result = _judge_and_keep(job, dataset, fitted, record)
    except BaseException as error:
        record.close("KILLED" if isinstance(error, Terminated) else "FAILED")
        raise
    record.close("FINISHED")
    return result


def _record(job: Job, initial: Initial) -> Record:
    if not job.world.is_leader:
        return NoRecord()
    return open_record(
        job.config, job.recipe, os.environ, output=job.output, scratch=job.scratch, origin=initial.origin
    )


def _judge_and_keep(job: Job, dataset: LocalDataset, fitted: Fitted, record: Record) -> dict[str, Any]:
    job.progress.update(stage="evaluating")
    judged = _judged(job, dataset, fitted.model)
    if not job.world.is_leader:
        return {}
    folder = _export(job, _plain(fitted.model), dataset)
    quantization = None
    if job.config.output.quantization == "Int8":
        job.progress.update(stage="quantizing")
        quantization, judged = _quantize(job, dataset, folder, judged)
        record.log(quantization.metrics(), 0)
        fitted = replace(fitted, notes=(*fitted.notes, quantization.sentence))
    for name in model_folder.FILES:
        job.output.upload(folder / name, f"model/{name}")
    model = TrainedModel(
        folder=folder,
        reports=_write_reports(job, judged, dataset, fitted),
        digest=model_folder.digest(model_folder.file_digests(folder)),
        classes=len(dataset.classes),
        metrics=judged.final.metrics,
        quantization=quantization.document() if quantization else None,
    )
    job.progress.update(stage="registering")
    return _finish(job, record, model, fitted, dataset)


def _evaluate_only(job: Job, dataset: LocalDataset, start: Initial, record: Record) -> dict[str, Any]:
    """Judges the initial model on the images; nothing is trained, exported or registered."""
    if start.preset is None or start.preprocess is None:
        raise BadConfig(
            "InvalidConfig", f"{start.origin} says nothing of its classes: evaluateOnly needs a model of a TrainingJob"
        )
    job = replace(job, preset=PRESETS[start.preset], preprocess=start.preprocess)
    dataset = dataset.with_classes(start.classes)
    model, notes = fitting.build_model(job, dataset, start)
    note = unreadable_note(dataset.unreadable_keys)
    notes = (*notes, note) if note else notes
    fitted = Fitted(model=model, reason="Evaluated", best_epoch=None, notes=notes, starts=1, saved=None)
    job.progress.update(stage="evaluating")
    judged = _judged(job, dataset, fitted.model)
    if not job.world.is_leader:
        return {}
    record.report(_write_reports(job, judged, dataset, fitted), judged.final.metrics)
    about = {"name": None, "version": None, "uri": _initial_uri(job.config), "digest": start.digest}
    return _keep_result(job, record, fitted, metrics=judged.final.metrics, model=about)


@dataclass(frozen=True)
class _Judged:
    """The best weights' answers on what was held out."""

    validation: Evaluation
    test: Evaluation | None

    @property
    def final(self) -> Evaluation:
        """The figures that count: on images that chose nothing, where there are such."""
        return self.test or self.validation


def _judged(job: Job, dataset: LocalDataset, model: nn.Module) -> _Judged:
    found = {
        split: job.evaluate(model, job.evaluation_loader(dataset, split), exact=True)
        for split in ("validation", "test")
        if split in dataset.splits
    }
    for split, evaluation in found.items():
        low, high = interval95(evaluation.metrics["top1"], len(evaluation.labels))
        log.info(
            "%s images: top1 %.4f (95 %% interval %.4f to %.4f), %s",
            split, evaluation.metrics["top1"], low, high, _words(evaluation.metrics),
        )  # fmt: skip
    return _Judged(found["validation"], found.get("test"))


def _export(job: Job, model: nn.Module, dataset: LocalDataset) -> Path:
    folder = job.scratch / "model"
    folder.mkdir()
    validation = job.evaluation_loader(dataset, "validation").dataset
    count = min(_EXAMPLES, math.ceil(len(dataset.splits["validation"]) / job.world.size))
    examples = normalise(torch.stack([validation[index][0] for index in range(count)]), job.preprocess)
    export.write_model(folder, model, classes=dataset.classes, preprocess=job.preprocess, examples=examples)
    return folder


def _quantize(job: Job, dataset: LocalDataset, folder: Path, judged: _Judged) -> tuple[Quantization, _Judged]:
    """Puts the model's int8 form in its place if that is worth while; returns what came of it, and the answers of
    the model that is there now.
    """
    model, candidate = folder / "model.onnx", job.scratch / "int8.onnx"
    quantize.write_int8(model, candidate, _calibration_images(job, dataset))
    # The other processes have done their part by now.
    alone = replace(job, world=World(), device=torch.device("cpu"))
    log.info("the same in int8:")
    other = _judged(alone, dataset, export.OnnxNetwork(candidate))
    float_ms, int8_ms = quantize.milliseconds(model, candidate)
    found = Quantization(
        float32=quantize.Form(top1=judged.validation.metrics["top1"], milliseconds=float_ms),
        int8=quantize.Form(top1=other.validation.metrics["top1"], milliseconds=int8_ms),
        calibration_images=min(quantize.CALIBRATION_IMAGES, len(dataset.splits["train"])),
    )
    log.info("%s", found.sentence)
    if not found.kept:
        return found, judged
    candidate.replace(model)
    return found, other


def _calibration_images(job: Job, dataset: LocalDataset) -> Iterator[quantize.Images]:
    files = dataset.splits["train"]
    chosen = np.linspace(0, len(files) - 1, min(quantize.CALIBRATION_IMAGES, len(files))).round().astype(int)
    for _, pixels in views(files.subset(chosen), job.preprocess, count=1, seed=0, world=World()):
        yield normalise(pixels, job.preprocess).numpy()


def _write_reports(job: Job, judged: _Judged, dataset: LocalDataset, fitted: Fitted) -> Path:
    folder = job.scratch / "reports"
    folder.mkdir()
    config = job.config
    about = ReportAbout(
        title=config.display_name or f"{config.namespace}/{config.name}",
        preset=config.preset,
        metric=config.metric,
        best_epoch=fitted.best_epoch,
        dataset=dataset,
        validation=judged.validation,
        test=judged.test,
        notes=fitted.notes,
    )
    write_reports(folder, about)
    for path in sorted(folder.iterdir()):
        job.output.upload(path, path.name)
    return folder


def _finish(job: Job, record: Record, model: TrainedModel, fitted: Fitted, dataset: LocalDataset) -> dict[str, Any]:
    """Registers the model, completes its directory, and only then writes the result."""
    version = record.register(model)
    promoted = record.promote(version, model, lambda: dataset) if version is not None else None
    about = _about(job, record, model, version)
    job.output.write(f"model/{model_folder.METADATA}", model_folder.metadata(model.folder, about))
    model_about = {**about["model"], "uri": model_uri(job.config), "digest": model.digest}
    more = {"promoted": promoted, "quantization": model.quantization}
    return _keep_result(job, record, fitted, metrics=model.metrics, model=model_about, more=more)


def _keep_result(
    job: Job,
    record: Record,
    fitted: Fitted,
    *,
    metrics: Mapping[str, float],
    model: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    figures = job.progress.snapshot()
    result = {
        "uid": job.config.uid,
        "reason": fitted.reason,
        "mlflow": record.run_document(),
        "model": dict(model),
        "metrics": {name: round(value, 6) for name, value in metrics.items()},
        "initialModel": figures["initialModel"],
        "starts": fitted.starts,
        "progress": {name: figures[name] for name in ("epoch", "step", "totalSteps") if name in figures},
        "lastCheckpoint": fitted.saved.document() if fitted.saved else None,
        "promoted": None,
        "notes": list(fitted.notes),
        **(more or {}),
    }
    job.output.write(RESULT, json.dumps(result, ensure_ascii=False, indent=1).encode())
    record.log_file(job.scratch / LOG)
    return result


def _about(job: Job, record: Record, model: TrainedModel, version: str | None) -> dict[str, Any]:
    """Where the model comes from, for its metadata."""
    config = job.config
    return {
        "preset": config.preset,
        "imageSize": job.recipe.image_size,
        "recipe": job.recipe.document(),
        "metrics": dict(model.metrics),
        "quantization": model.quantization,
        "trainingJob": {"namespace": config.namespace, "name": config.name, "uid": config.uid},
        "datasets": [{"name": part.name, "version": part.version} for part in config.datasets],
        "run": record.run_document(),
        "model": {"name": config.mlflow.registered_model, "version": version},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(model: nn.Module) -> nn.Module:
    """The model on the CPU in the usual memory layout, whatever suited the device."""
    return model.cpu().to(memory_format=torch.contiguous_format)


def _refuse_unfit(job: Job, dataset: LocalDataset) -> None:
    if job.config.metric == "top5" and len(dataset.classes) <= TOP_K:
        raise BadConfig(
            "InvalidConfig",
            f"metric top5 says nothing about {len(dataset.classes)} classes, as one of five answers is always right; "
            "use top1, precision, recall or f1",
        )


def _initial_uri(config: TrainConfig) -> str | None:
    return config.initial_model.uri if config.initial_model else None


def _words(metrics: Any) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "top1")


@contextmanager
def _logged(config: TrainConfig, access: S3Access, scratch: Path) -> Iterator[None]:
    """Keeps this run's log as a file, and leaves it in the output folder however the run ends."""
    path = scratch / LOG
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("bloomery_trainer")
    root.addHandler(handler)
    try:
        yield
    except TrainerError as error:
        log.error("%s", error)
        raise
    except Exception as error:
        if not isinstance(error, Terminated):
            log.exception("the run failed")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
        for uri in filter(None, (config.output.uri, config.output.log_uri)):
            try:
                open_folder(uri, access, create=True).upload(path, LOG)
            except TrainerError as error:
                log.warning("the log could not be kept at %s: %s", uri, error)
