"""The report as one HTML page that needs nothing from outside: no scripts, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloomery_trainer import pages
from bloomery_trainer.data.dataset import ImageFiles
from bloomery_trainer.engine.head import FOLDS
from bloomery_trainer.engine.suspects import MAX_IMAGES, MOVE_SCORE
from bloomery_trainer.reports.metadata import ReportMetadata
from bloomery_trainer.reports.suspects import SHOWN_SUSPECTS, paste_blocks, suspect_lines
from bloomery_trainer.reports.verdict import FEW_TRAINING_IMAGES, LEVELS, percent

_WHOLE = 60
"""Up to so many classes all are shown; beyond, those with the most mistakes, and the rest folded away."""

_SOME = 30
_THUMBNAIL = 112
_THUMBNAILS = 240
_THUMBNAIL_BYTES = 3 * 1024 * 1024
_SUSPECT_BYTES = 2 * 1024 * 1024
_LABELS = 40
_HEAT_MAPS = 60
"""Mistakes that get a heat map: each takes a pass through the network and back."""
_LEAST_IMAGES = 5
"""Images of a group that the lines of the reliability diagram go through: the accuracy of fewer is chance."""
_NOTICEABLE = 0.1
"""Difference of a temperature from 1 that is worth a word."""


@dataclass(frozen=True)
class Thumbnail:
    """A misclassified image."""

    source: str
    key: str
    dataset: str
    predicted: str
    score: float
    seen: str | None
    """The part that the network saw, bright where it looked."""


@dataclass(frozen=True)
class Mistakes:
    """The misclassified images of one class, the surest mistakes first; ``count`` of them in all."""

    label: str
    count: int
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class SuspectPicture:
    """A training image with a suspected label: its line of suspects.jsonl, and its picture if the page bears it."""

    line: Mapping[str, Any]
    source: str | None


@dataclass(frozen=True)
class Cell:
    """One number of the confusion matrix, with its share of the row."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Row:
    """One class of the confusion matrix; ``others`` are answers that have no column."""

    number: int
    name: str
    cells: tuple[Cell, ...]
    others: int


def render(document: Mapping[str, Any], metadata: ReportMetadata) -> str:
    """Return the page for the content of evaluation.json, with pictures of what went wrong."""
    template = _ENVIRONMENT.get_template("evaluation.html.j2")
    rows = _matrix(metadata)
    lines = _suspect_lines(metadata)
    return template.render(
        report=document,
        figures=_figures(document),
        matrix=rows,
        column_names=len(rows) <= 12,
        mistakes=_mistakes(metadata),
        wrong=int(np.sum(metadata.judged.predicted != metadata.judged.labels)),
        whole=len(metadata.dataset.classes) <= _WHOLE,
        weakest=_weakest(document),
        several_datasets=len(metadata.dataset.parts) > 1,
        splits=[split for split in ("train", "validation", "test") if split in metadata.dataset.splits],
        few=FEW_TRAINING_IMAGES,
        levels=LEVELS,
        looked=metadata.picture is not None,
        suspects=_suspects(lines, metadata),
        paste_blocks=paste_blocks(lines),
        move_score=MOVE_SCORE,
        max_examined=MAX_IMAGES,
        folds=FOLDS,
        calibration_sentence=_calibration_sentence(document),
        least_images=_LEAST_IMAGES,
    )


def _calibration_sentence(document: Mapping[str, Any]) -> str:
    """Return whether the network was too sure of its answers, and how far its scores can be trusted now."""
    calibration = document["calibration"]
    if calibration is None:
        return ""
    temperature, before, after = calibration["temperature"], calibration["before"], calibration["after"]
    tendency = "about as sure as it was right"
    if abs(temperature - 1) > _NOTICEABLE:
        tendency = "too sure of its answers" if temperature > 1 else "too unsure of its answers"
    if document["initialModel"] is None:
        return (
            f"The model, which was not changed, was {tendency}: score and truth were {percent(before['error'])} apart. "
            f"With a temperature of {temperature:.2f} they would be {percent(after['error'])} apart."
        )
    return (
        f"As trained, the network was {tendency}: score and truth were {percent(before['error'])} apart. With its "
        f"temperature they are {percent(after['error'])} apart."
    )


def _figures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one line for each figure, with what it means."""
    columns = [document[split]["metrics"] for split in ("test", "validation") if document[split] is not None]
    rows = [key for key in _MEANINGS if any(key in column for column in columns)]
    if document["lastEpoch"] is not None:
        columns.append(document["lastEpoch"])
    return [
        {"name": words, "key": key, "values": [column.get(key) for column in columns], "meaning": meaning}
        for key, (words, meaning) in ((key, _MEANINGS[key]) for key in rows)
    ]


def _matrix(metadata: ReportMetadata) -> list[Row]:
    """Return the confusion matrix, of all classes or of those that are confused most."""
    labels, predicted, classes = metadata.judged.labels, metadata.judged.predicted, metadata.dataset.classes
    shown = _most_confused(labels, predicted, len(classes))
    position = np.full(len(classes), len(shown))
    position[shown] = np.arange(len(shown))
    counts = np.zeros((len(shown) + 1, len(shown) + 1), np.int64)
    np.add.at(counts, (position[labels], position[predicted]), 1)
    rows = []
    for place, number in enumerate(shown):
        total = max(1, int(counts[place].sum()))
        cells = tuple(
            Cell(int(count), count / total, column == place) for column, count in enumerate(counts[place, :-1])
        )
        rows.append(Row(int(number) + 1, classes[number], cells, int(counts[place, -1])))
    return rows


def _most_confused(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    if classes <= _WHOLE:
        return np.arange(classes)
    wrong = labels != predicted
    counts = np.bincount(labels[wrong], minlength=classes) + np.bincount(predicted[wrong], minlength=classes)
    return np.sort(np.argsort(-counts, kind="stable")[:_SOME])


def _weakest(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    known = [entry for entry in document["classes"] if entry["f1"] is not None]
    return sorted(known, key=lambda entry: entry["f1"])[:_SOME]


def _mistakes(metadata: ReportMetadata) -> list[Mistakes]:
    """Return pictures of what went wrong, by true class: those with the most mistakes, as many as a page bears."""
    judged, files = metadata.judged, metadata.dataset.splits[metadata.split]
    wrong = np.flatnonzero(judged.predicted != judged.labels)
    surest_first = wrong[np.argsort(-judged.probabilities[wrong].max(axis=1), kind="stable")]
    counts = np.bincount(judged.labels[wrong], minlength=len(metadata.dataset.classes))
    labels = [int(label) for label in np.argsort(-counts, kind="stable")[:_LABELS] if counts[label]]
    each = max(4, _THUMBNAILS // max(1, len(labels)))
    mistakes, left, heat_maps = [], _THUMBNAIL_BYTES, _HEAT_MAPS
    for label in labels:
        chosen = surest_first[judged.labels[surest_first] == label][:each]
        thumbnails = []
        for index in chosen if left > 0 else []:
            thumbnails.append(_thumbnail(metadata, files, int(index), with_heat_map=heat_maps > 0))
            heat_maps -= 1
            left -= len(thumbnails[-1].source) + len(thumbnails[-1].seen or "")
        mistakes.append(Mistakes(metadata.dataset.classes[label], int(counts[label]), tuple(thumbnails)))
    return mistakes


def _thumbnail(metadata: ReportMetadata, files: ImageFiles, index: int, *, with_heat_map: bool) -> Thumbnail:
    data, seen = files.read(index), None
    if metadata.picture is not None and with_heat_map:
        seen = pages.data_uri(metadata.picture(data, int(metadata.judged.predicted[index])), side=_THUMBNAIL)
    return Thumbnail(
        source=pages.thumbnail(data, side=_THUMBNAIL),
        key=files.key(index),
        dataset=metadata.dataset.parts[files.parts[index]].name,
        predicted=metadata.dataset.classes[metadata.judged.predicted[index]],
        score=float(metadata.judged.probabilities[index].max()),
        seen=seen,
    )


def _suspect_lines(metadata: ReportMetadata) -> list[dict[str, Any]]:
    if metadata.suspects is None:
        return []
    return list(islice(suspect_lines(metadata.suspects, metadata.dataset), SHOWN_SUSPECTS))


def _suspects(lines: Sequence[Mapping[str, Any]], metadata: ReportMetadata) -> list[SuspectPicture]:
    """Return the first suspects with pictures, of which a page bears a number of bytes."""
    if metadata.suspects is None:
        return []
    files, pictures, left = metadata.dataset.splits["train"], [], _SUSPECT_BYTES
    for line, suspect in zip(lines, metadata.suspects.items, strict=False):
        source = pages.thumbnail(files.read(suspect.index), side=_THUMBNAIL) if left > 0 else None
        left -= len(source or "")
        pictures.append(SuspectPicture(line, source))
    return pictures


def _unbroken(share: float) -> str:
    return percent(share).replace(" ", "\N{NO-BREAK SPACE}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


_ENVIRONMENT = pages.environment("bloomery_trainer.reports", folder="templates", percent=_unbroken, number=_number)

_MEANINGS = {
    "top1": ("Accuracy (top 1)", "The share of images whose most probable class is the right one."),
    "top2": ("Top 2", "The share of images whose right class is among the two most probable."),
    "top3": ("Top 3", "… among the three most probable."),
    "top4": ("Top 4", "… among the four most probable."),
    "top5": ("Top 5", "… among the five most probable."),
    "precision": (
        "Precision",
        "Of the answers “it is this class”, the share that is right; the mean over classes, each counting the same.",
    ),
    "recall": ("Recall", "Of a class's images, the share that is found; the mean over classes, each the same."),
    "balanced": (
        "Balanced accuracy",
        "The mean recall by its usual name: accuracy in which small classes count as much as large ones.",
    ),
    "f1": ("F1", "The harmonic mean of the two, class by class, then the mean over classes: low where either is."),
    "weightedPrecision": ("Precision, weighted", "The same, each class counting by its number of images."),
    "weightedRecall": ("Recall, weighted", "The same, each class counting by its images: this equals the accuracy."),
    "weightedF1": ("F1, weighted", "The same, each class counting by its number of images."),
    "auc": (
        "AUC",
        "How well the score of a class puts its images before all others (0.5: by chance, 1: perfectly); "
        "the mean over classes, one against the rest.",
    ),
    "kappa": (
        "Cohen's kappa",
        "Agreement with the true classes beyond what chance gives: 0 is chance, 1 is perfect, above 0.8 is very good.",
    ),
    "loss": (
        "Loss",
        "Cross-entropy: how surprised the model is by the truth. Also small only if it is not over-confident; "
        "0 is perfect.",
    ),
}
"""Each figure's name and meaning, in the order of the page."""
