"""A job that trains nothing: it evaluates the model it was given, in the form in which that is served."""

from __future__ import annotations

from typing import Any

from bloomery_trainer.engine.held_out import HeldOutImages
from bloomery_trainer.engine.results import opened_record, publish_reports, report_title, write_result
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models.classifier import Classifier, find_classifier
from bloomery_trainer.train import initial
from bloomery_trainer.train.dataset import LocalDataset
from bloomery_trainer.train.job import Job
from bloomery_trainer.train.presets import PRESETS
from bloomery_trainer.train.record import Record
from bloomery_trainer.train.report import ReportAbout


def evaluate(job: Job) -> dict[str, Any]:
    """Evaluates `initialModel` on the held-out images and reports on it; nothing is trained, exported or registered.

    Takes a model folder of a training (its model.onnx, also in int8), any folder with an ONNX model and its classes,
    and the weights in a checkpoint of a training. Raises BadConfig where nothing says which classes the model knows,
    or it does not know those of the images.
    """
    classifier = _classifier(job)
    dataset = job.dataset(("validation", "test")).with_classes(classifier.classes)
    with opened_record(job) as record:
        if not job.world.is_leader:
            return {}
        return _report(job, classifier, dataset, record)


def _classifier(job: Job) -> Classifier:
    wanted = job.config.initial_model
    assert wanted is not None
    if wanted.uri is not None and not wanted.uri.endswith((".pt", ".pth", ".safetensors")):
        if wanted.uri.endswith(".onnx"):
            raise BadConfig(
                "UnsupportedModel",
                f"{wanted.uri} is a file: evaluateOnly takes its folder, with labels.txt, a class in each line, beside "
                "the model",
            )
        folder = job.scratch / "evaluated"
        folder.mkdir()
        found = find_classifier(wanted.uri, job.open, folder, digest=wanted.digest)
        if found is not None:
            return found
    return _from_weights(job)


def _from_weights(job: Job) -> Classifier:
    """A network with the weights of a checkpoint, which no file that is served holds yet."""
    start = job.started_from()
    assert start is not None
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
    wanted = job.config.initial_model
    assert wanted is not None
    job.progress.update(stage="evaluating")
    judgement = HeldOutImages.of(dataset, classifier.preprocess, job.shutdown).judge(classifier.network)
    note = f"{wanted.origin or wanted.uri} was evaluated as it is, in {classifier.data_type}; nothing was trained."
    about = ReportAbout(
        title=report_title(job),
        preset=classifier.preset or "ONNX",
        metric=job.config.metric,
        best_epoch=None,
        dataset=dataset,
        validation=judgement.validation,
        test=judgement.test,
        data_type=classifier.data_type,
        notes=(note,),
    )
    metrics = judgement.final.metrics
    record.report(publish_reports(job, about), metrics, evaluated_on=judgement.split)
    more = {
        "model": {"name": None, "version": None, "uri": wanted.uri, "digest": classifier.digest},
        "metrics": metrics,
        "evaluatedOn": judgement.split,
        "dataType": classifier.data_type,
        "notes": [note],
    }
    return write_result(job, record, None, more)
