"""The ``train`` command with ``evaluateOnly``: evaluates a model in the form in which it is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bloomery_model.references import REFERENCES
from bloomery_trainer import model_folder
from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.data.unreadable import unreadable_note
from bloomery_trainer.engine.calibration import calibrate
from bloomery_trainer.engine.context import RunContext
from bloomery_trainer.engine.held_out import HeldOutImages, HeldOutSplit
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import initial
from bloomery_trainer.models.classifier import Classifier, fetch_classifier, find_model
from bloomery_trainer.models.initial import Initial
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.publish.results import opened_record, publish_reports, report_title, write_result
from bloomery_trainer.publish.run_record import RunRecord
from bloomery_trainer.reports.evaluation import ReportMetadata
from bloomery_trainer.storage import Folder

_WEIGHT_FILES = (".pt", ".pth", ".safetensors")


def evaluate(context: RunContext) -> dict[str, Any]:
    """Evaluate ``initialModel`` on the held-out images and report on it; nothing is trained, exported or registered.

    Takes a model folder of a training (its model.onnx, also in int8), any folder with an ONNX model and its classes,
    and the weights in a checkpoint of a training. Of several processes, the leader evaluates alone.

    Raises:
        BadConfig: the classes of the model are not known, or it does not know those of the images.
    """
    folder = _find_exported_model(context)
    start = context.started_from() if folder is None else None
    classifier = None
    if context.world.is_leader:
        classifier = _fetch_served_model(context, folder) if start is None else _classifier_from_weights(start)
        context.progress.update(initialModel=_start_document(context) if start is None else start.document())
    dataset = context.dataset(("validation", "test"))
    if classifier is None:
        return {}
    with opened_record(context, origin=_origin(context)) as record:
        return _report_evaluation(context, classifier, dataset.with_classes(classifier.classes), record, folder)


def _find_exported_model(context: RunContext) -> Folder | None:
    """Return the folder with the model as it is served; None if there are only weights."""
    uri = context.config.initial_model.uri if context.config.initial_model else None
    if uri is None or uri.endswith(_WEIGHT_FILES):
        return None
    if uri.endswith(".onnx"):
        raise BadConfig(
            "UnsupportedModel",
            f"{uri} is a file: evaluateOnly takes its folder, with labels.txt, a class in each line, beside the model",
        )
    return find_model(uri, context.open)


def _fetch_served_model(context: RunContext, folder: Folder | None) -> Classifier:
    initial_model = context.config.initial_model
    assert folder is not None
    assert initial_model is not None
    scratch = context.scratch / "evaluated"
    scratch.mkdir()
    return fetch_classifier(folder, scratch, digest=initial_model.digest)


def _classifier_from_weights(start: Initial) -> Classifier:
    """Build a network with the weights of a checkpoint, which no served file holds yet."""
    if start.preset is None or start.preprocess is None:
        raise BadConfig(
            "InvalidConfig",
            f"{start.origin} says nothing of its classes: evaluateOnly needs a model folder or a checkpoint of a "
            "TrainingJob, or an ONNX model with labels.txt",
        )
    preset, side = PRESETS[start.preset], start.preprocess.crop
    network = preset.build(len(start.classes), image_size=side)
    initial.load_pretrained(network, start, classes=start.classes, head=preset.head(image_size=side))
    return Classifier(
        network=network,
        classes=start.classes,
        preprocess=start.preprocess,
        data_type="float32",
        preset=start.preset,
        digest=start.digest,
    )


def _report_evaluation(
    context: RunContext, classifier: Classifier, dataset: LocalDataset, record: RunRecord, folder: Folder | None
) -> dict[str, Any]:
    context.progress.update(stage="evaluating")
    images = HeldOutImages.of(
        dataset, classifier.preprocess, context.shutdown, budget=context.memory, cache=context.scratch_cache
    )
    evaluation = images.evaluate(classifier.network)
    # The file stays as it is, so the figures are those of its own scores; the temperature is what would suit it.
    calibration = calibrate(evaluation)
    note = f"{_origin(context)} was evaluated as it is, in {classifier.data_type}; nothing was trained."
    metadata = ReportMetadata(
        title=report_title(context),
        preset=classifier.preset or "ONNX",
        metric=context.config.metric,
        best_epoch=None,
        dataset=dataset,
        validation=evaluation.validation,
        test=evaluation.test,
        data_type=classifier.data_type,
        calibration=calibration,
    )
    added = None
    if folder is not None:
        added = _add_statistics(context, classifier, images, metadata.statistics, evaluation.split, folder)
    notes = tuple(filter(None, (note, added, unreadable_note(dataset.unreadable_keys))))
    metadata = replace(metadata, notes=notes)
    metrics = evaluation.final.metrics
    record.report(publish_reports(context, metadata), metrics, evaluated_on=evaluation.split)
    uri = context.config.initial_model.uri if context.config.initial_model else None
    more = {
        "model": {"name": None, "version": None, "uri": uri, "digest": classifier.digest},
        "metrics": metrics,
        "evaluatedOn": evaluation.split,
        "dataType": classifier.data_type,
        "notes": list(notes),
    }
    return write_result(context, record, None, more)


def _add_statistics(
    context: RunContext,
    classifier: Classifier,
    images: HeldOutImages,
    statistics: dict[str, Any],
    split: HeldOutSplit,
    folder: Folder,
) -> str:
    """Give the model folder the statistics and the references that it lacks; return a note on it."""
    if context.config.output.references:
        references = images.references(classifier.network, split=split)
        statistics |= model_folder.write_references(context.scratch, references, split=split)
    return model_folder.add_statistics(
        folder, statistics, digest=classifier.digest, references=context.scratch / REFERENCES
    )


def _origin(context: RunContext) -> str:
    initial_model = context.config.initial_model
    return (initial_model.origin or initial_model.uri or "the model") if initial_model is not None else "the model"


def _start_document(context: RunContext) -> dict[str, str]:
    return {"kind": "Model", "origin": _origin(context), "warning": ""}
