"""A job that trains nothing: it evaluates the model it was given, in the form in which that is served."""

from __future__ import annotations

from typing import Any

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.data.unreadable import unreadable_note
from bloomery_trainer.engine.context import Job
from bloomery_trainer.engine.held_out import HeldOutImages
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import initial
from bloomery_trainer.models.classifier import Classifier, fetch_classifier, find_model
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.publish.record import Record
from bloomery_trainer.publish.results import opened_record, publish_reports, report_title, write_result
from bloomery_trainer.reports.evaluation import ReportAbout
from bloomery_trainer.storage import Folder

_WEIGHT_FILES = (".pt", ".pth", ".safetensors")


def evaluate(job: Job) -> dict[str, Any]:
    """Evaluates `initialModel` on the held-out images and reports on it; nothing is trained, exported or registered.

    Takes a model folder of a training (its model.onnx, also in int8), any folder with an ONNX model and its classes,
    and the weights in a checkpoint of a training. Raises BadConfig where nothing says which classes the model knows,
    or it does not know those of the images. Of several processes, the leader evaluates alone.
    """
    folder = _exported(job)
    start = job.started_from() if folder is None else None
    classifier = None
    if job.world.is_leader:
        classifier = _fetched(job, folder) if start is None else _from_weights(start)
        job.progress.update(initialModel=_document(job) if start is None else start.document())
    dataset = job.dataset(("validation", "test"))
    if classifier is None:
        return {}
    with opened_record(job, origin=_origin(job)) as record:
        return _report(job, classifier, dataset.with_classes(classifier.classes), record)


def _exported(job: Job) -> Folder | None:
    """The folder with the model as it is served; None where there are only weights."""
    uri = job.config.initial_model.uri if job.config.initial_model else None
    if uri is None or uri.endswith(_WEIGHT_FILES):
        return None
    if uri.endswith(".onnx"):
        raise BadConfig(
            "UnsupportedModel",
            f"{uri} is a file: evaluateOnly takes its folder, with labels.txt, a class in each line, beside the model",
        )
    return find_model(uri, job.open)


def _fetched(job: Job, folder: Folder | None) -> Classifier:
    wanted = job.config.initial_model
    assert folder is not None
    assert wanted is not None
    scratch = job.scratch / "evaluated"
    scratch.mkdir()
    return fetch_classifier(folder, scratch, digest=wanted.digest)


def _from_weights(start: Initial) -> Classifier:
    """A network with the weights of a checkpoint, which no file that is served holds yet."""
    if start.preset is None or start.preprocess is None:
        raise BadConfig(
            "InvalidConfig",
            f"{start.origin} says nothing of its classes: evaluateOnly needs a model folder or a checkpoint of a "
            "TrainingJob, or an ONNX model with labels.txt",
        )
    preset, side = PRESETS[start.preset], start.preprocess.crop
    network = preset.build(len(start.classes), image_size=side)
    initial.take_over(network, start, classes=start.classes, head=preset.head(image_size=side))
    return Classifier(
        network=network,
        classes=start.classes,
        preprocess=start.preprocess,
        data_type="float32",
        preset=start.preset,
        digest=start.digest,
    )


def _report(job: Job, classifier: Classifier, dataset: LocalDataset, record: Record) -> dict[str, Any]:
    job.progress.update(stage="evaluating")
    images = HeldOutImages.of(dataset, classifier.preprocess, job.shutdown, budget=job.memory)
    judgement = images.judge(classifier.network)
    note = f"{_origin(job)} was evaluated as it is, in {classifier.data_type}; nothing was trained."
    notes = tuple(filter(None, (note, unreadable_note(dataset.unreadable_keys))))
    about = ReportAbout(
        title=report_title(job),
        preset=classifier.preset or "ONNX",
        metric=job.config.metric,
        best_epoch=None,
        dataset=dataset,
        validation=judgement.validation,
        test=judgement.test,
        data_type=classifier.data_type,
        notes=notes,
    )
    metrics = judgement.final.metrics
    record.report(publish_reports(job, about), metrics, evaluated_on=judgement.split)
    uri = job.config.initial_model.uri if job.config.initial_model else None
    more = {
        "model": {"name": None, "version": None, "uri": uri, "digest": classifier.digest},
        "metrics": metrics,
        "evaluatedOn": judgement.split,
        "dataType": classifier.data_type,
        "notes": list(notes),
    }
    return write_result(job, record, None, more)


def _origin(job: Job) -> str:
    wanted = job.config.initial_model
    return (wanted.origin or wanted.uri or "the model") if wanted is not None else "the model"


def _document(job: Job) -> dict[str, str]:
    return {"kind": "Model", "origin": _origin(job), "warning": ""}
