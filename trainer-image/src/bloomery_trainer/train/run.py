"""The `train` command, from its configuration to the result: each step in its own function, in order."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bloomery_trainer.config import TrainConfig
from bloomery_trainer.errors import BadConfig, TrainerError
from bloomery_trainer.images import Preprocess
from bloomery_trainer.progress import Progress
from bloomery_trainer.resources import cpu_count
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.train import export, loop, report
from bloomery_trainer.train.data import Loader, evaluation_loader, normalise, training_loader
from bloomery_trainer.train.dataset import LocalDataset, fetch
from bloomery_trainer.train.evaluate import TOP_K, Evaluation, evaluate, interval95
from bloomery_trainer.train.evaluate import report as evaluation_report
from bloomery_trainer.train.observer import RunObserver
from bloomery_trainer.train.presets import PRESETS
from bloomery_trainer.train.recipe import Recipe, resolve
from bloomery_trainer.train.record import Record, TrainedModel, open_record

log = logging.getLogger(__name__)

RESULT = "result.json"
LOG = "train.log"
_EXAMPLES = 8


def train(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """Trains, evaluates, writes and registers a model; returns the result for the termination message.

    Where the output holds a result already, a pod of this job came that far before: it is returned as it is.
    """
    access = S3Access.from_environment(os.environ)
    output = open_folder(config.output.uri, access, create=True)
    done = output.read_if_there(RESULT)
    if done is not None:
        log.info("this job has ended before; its result stands")
        result: dict[str, Any] = json.loads(done)
        return result
    with tempfile.TemporaryDirectory(prefix="bloomery-") as scratch, _logged(Path(scratch), output):
        return _Training(config, progress, access, output, Path(scratch)).run()


class _Training:
    """One run: what its steps share."""

    def __init__(
        self, config: TrainConfig, progress: Progress, access: S3Access, output: Folder, scratch: Path
    ) -> None:
        self.config = config
        self.progress = progress
        self.access = access
        self.output = output
        self.scratch = scratch
        self.preset = PRESETS[config.preset]
        self.recipe = resolve(config.hyperparameters, self.preset)
        self.preprocess = Preprocess.for_size(self.recipe.image_size)
        self.device = _device(self.recipe.seed)

    def run(self) -> dict[str, Any]:
        self.progress.update(stage="reading")
        dataset = fetch(
            self.config.datasets,
            lambda uri: open_folder(uri, self.access),
            self.scratch,
            splits=("train", "validation", "test"),
        )
        _refuse_unfit(self.config, self.recipe, dataset)
        record = open_record(self.config, self.recipe, os.environ)
        try:
            result = self._train(dataset, record)
        except BaseException:
            record.close("FAILED")
            raise
        record.close("FINISHED")
        return result

    def _train(self, dataset: LocalDataset, record: Record) -> dict[str, Any]:
        validation = evaluation_loader(
            dataset.splits["validation"], self.preprocess, batch=max(64, self.recipe.batch_size), device=self.device
        )
        model = self.preset.build(len(dataset.classes)).to(self.device)
        if self.device.type == "cuda":
            model = model.to(memory_format=torch.channels_last)
        best = self._fit(model, dataset, validation, record)
        self.progress.update(stage="evaluating")
        model.load_state_dict(best.weights)
        evaluation = evaluate(model, validation, self.preprocess, device=self.device, exact=True)
        low, high = interval95(evaluation.metrics["top1"], len(evaluation.labels))
        log.info(
            "best epoch %d: top1 %.4f (95 %% interval %.4f to %.4f), %s",
            best.epoch, evaluation.metrics["top1"], low, high, _words(evaluation.metrics),
        )  # fmt: skip
        folder, digest = self._export(_plain(model), dataset, validation)
        trained = TrainedModel(
            folder=folder,
            reports=self._write_reports(evaluation, dataset, best.epoch),
            digest=digest,
            classes=len(dataset.classes),
            metrics=evaluation.metrics,
        )
        self.progress.update(stage="registering")
        return self._finish(record, trained)

    def _fit(self, model: nn.Module, dataset: LocalDataset, validation: Loader, record: Record) -> loop.Best:
        batches = training_loader(dataset.splits["train"], self.preprocess, self.recipe, self.device)
        state = loop.start(model, self.recipe, len(batches))
        log.info(
            "%s from scratch: %d images of %d classes, %d steps of %d images on %s",
            self.config.preset, len(dataset.splits["train"]), len(dataset.classes), state.total_steps,
            batches.batch_size, self.device,
        )  # fmt: skip
        observer = RunObserver(
            self.progress, record, metric=self.config.metric, total_steps=state.total_steps, epoch_steps=len(batches)
        )
        return loop.fit(
            state,
            batches,
            lambda network: evaluate(network, validation, self.preprocess, device=self.device),
            recipe=self.recipe,
            preprocess=self.preprocess,
            metric=self.config.metric,
            device=self.device,
            observer=observer,
        )

    def _export(self, model: nn.Module, dataset: LocalDataset, validation: Loader) -> tuple[Path, str]:
        folder = self.scratch / "model"
        folder.mkdir()
        count = min(_EXAMPLES, len(dataset.splits["validation"]))
        images = torch.stack([validation.dataset[index][0] for index in range(count)])
        examples = normalise(images, self.preprocess)
        digest = export.write_model(
            folder, model, classes=dataset.classes, preprocess=self.preprocess, examples=examples
        )
        for name in export.FILES:
            self.output.upload(folder / name, f"model/{name}")
        return folder, digest

    def _write_reports(self, evaluation: Evaluation, dataset: LocalDataset, best_epoch: int) -> Path:
        folder = self.scratch / "reports"
        folder.mkdir()
        document = evaluation_report(evaluation, dataset.classes)
        document |= {"preset": self.config.preset, "bestEpoch": best_epoch, "dataset": _dataset(self.config)}
        _write_json(folder / "evaluation.json", document)
        page = report.confusion_page(document["confusionMatrix"], dataset.classes)
        (folder / "confusion-matrix.html").write_text(page, encoding="utf-8")
        files = dataset.splits["validation"]
        report.write_predictions(folder / "predictions.csv", evaluation, files=files, classes=dataset.classes)
        for path in sorted(folder.iterdir()):
            self.output.upload(path, path.name)
        return folder

    def _finish(self, record: Record, model: TrainedModel) -> dict[str, Any]:
        """Registers the model, completes its directory, and only then writes the result."""
        version = record.register(model)
        about = self._about(record, model, version)
        self.output.write(f"model/{export.METADATA}", export.metadata(model.folder, about))
        result = {
            "mlflow": about["run"],
            "model": {**about["model"], "uri": _model_uri(self.config), "digest": model.digest},
            "metrics": {name: round(value, 6) for name, value in model.metrics.items()},
            "reason": "NotRegistered" if version is None else "Trained",
        }
        self.output.write(RESULT, json.dumps(result, ensure_ascii=False, indent=1).encode())
        record.log_file(self.scratch / LOG)
        return result

    def _about(self, record: Record, model: TrainedModel, version: str | None) -> dict[str, Any]:
        """Where the model comes from, for its metadata."""
        config = self.config
        return {
            "preset": config.preset,
            "imageSize": self.recipe.image_size,
            "metrics": dict(model.metrics),
            "trainingJob": {"namespace": config.namespace, "name": config.name, "uid": config.uid},
            "dataset": _dataset(config),
            "run": record.run_document(),
            "model": {"name": config.mlflow.registered_model, "version": version},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _device(seed: int) -> torch.device:
    torch.manual_seed(seed)
    torch.set_num_threads(cpu_count())
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def _plain(model: nn.Module) -> nn.Module:
    """The model on the CPU in the usual memory layout, whatever suited the device."""
    return model.cpu().to(memory_format=torch.contiguous_format)


def _refuse_unfit(config: TrainConfig, recipe: Recipe, dataset: LocalDataset) -> None:
    if config.metric == "top5" and len(dataset.classes) <= TOP_K:
        raise BadConfig(
            "InvalidConfig",
            f"metric top5 says nothing about {len(dataset.classes)} classes, as one of five answers is always right; "
            "use top1, precision, recall or f1",
        )
    if min(recipe.batch_size, len(dataset.splits["train"])) == 1:
        raise BadConfig("InvalidConfig", "batch normalisation needs hyperparameters.batchSize of at least 2")


def _dataset(config: TrainConfig) -> dict[str, str]:
    return {"name": config.datasets[0].name, "version": config.datasets[0].version}


def _model_uri(config: TrainConfig) -> str:
    return f"{config.output.uri.rstrip('/')}/model"


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def _words(metrics: Any) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "top1")


@contextmanager
def _logged(scratch: Path, output: Folder) -> Iterator[None]:
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
    except Exception:
        log.exception("the run failed")
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
        try:
            output.upload(path, LOG)
        except TrainerError as error:
            log.warning("the log could not be kept: %s", error)
