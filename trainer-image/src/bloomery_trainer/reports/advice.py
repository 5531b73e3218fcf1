"""Advice after an evaluation: the next steps that promise the most, with the lines to paste into the TrainingJob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bloomery_trainer.reports.verdict import FEW_TRAINING_IMAGES, find_imbalance, percent, quoted

_LOW_RECALL = 0.85
"""Below it, more images of a class are worth taking."""

_NAMED_CLASSES = 5

Document = Mapping[str, Any]


def advice(document: Document) -> list[dict[str, str | None]]:
    """Return the next steps, from the other parts of evaluation.json: a sentence each, and YAML to paste or None."""
    steps = (_train_longer(document), _photograph_next(document), _balance(document))
    return [step for step in steps if step is not None]


def _step(sentence: str, paste: str | None = None) -> dict[str, str | None]:
    return {"sentence": sentence, "paste": paste}


def _train_longer(document: Document) -> dict[str, str | None] | None:
    last = document["lastEpoch"]
    if not document["stillImproving"] or last is None:
        return None
    metric, epochs = document["metric"], int(last["epoch"])
    reached = f" ({last[metric]:.4f} on the validation images)" if metric in last else ""
    sentence = f"Train longer: {metric} was still rising in the last of {epochs} epochs{reached}."
    length = document["length"]
    if length == "learningRateSchedule":
        return _step(f"{sentence} hyperparameters.learningRateSchedule says how long.")
    longer = f"epochs: {2 * epochs}" if length is None else f"maxSteps: {2 * length}"
    return _step(sentence, f"spec:\n  hyperparameters:\n    {longer}")


def _photograph_next(document: Document) -> dict[str, str | None] | None:
    """Name the classes with a low recall or few training images, those with the lowest recall first."""
    weak_classes = [entry for entry in document["classes"] if _needs_images(entry)]
    if not weak_classes:
        return None
    weak_classes.sort(key=_urgency)
    named = ", ".join(map(_describe_class, weak_classes[:_NAMED_CLASSES]))
    more = len(weak_classes) - _NAMED_CLASSES
    sentence = f"Photograph next: {named}{f' and {more} more classes' if more > 0 else ''}."
    if any(entry["recall"] is not None and entry["recall"] < 1 for entry in weak_classes):
        sentence += " The most useful images are like those that were overlooked, which are shown below."
    return _step(sentence)


def _needs_images(entry: Mapping[str, Any]) -> bool:
    has_low_recall = entry["recall"] is not None and entry["recall"] < _LOW_RECALL
    return has_low_recall or (entry["trainImages"] is not None and entry["trainImages"] < FEW_TRAINING_IMAGES)


def _urgency(entry: Mapping[str, Any]) -> tuple[float, int]:
    # A class without held-out images comes last: nothing is known of its recall.
    recall = 2.0 if entry["recall"] is None else entry["recall"]
    return recall, entry["trainImages"] or 0


def _describe_class(entry: Mapping[str, Any]) -> str:
    figures = []
    if entry["recall"] is not None:
        figures.append(f"{percent(entry['recall'])} of its images found")
    if entry["trainImages"] is not None:
        figures.append(f"{entry['trainImages']} to train with")
    return f"{quoted(entry['name'])} ({', '.join(figures)})"


def _balance(document: Document) -> dict[str, str | None] | None:
    imbalance = find_imbalance(document)
    if imbalance is None or document["balance"] != "None":
        return None
    smallest, largest = imbalance
    ratio = largest["trainImages"] / smallest["trainImages"]
    return _step(
        f"Balance the classes: {quoted(largest['name'])} has {ratio:.1f} times as many training images as "
        f"{quoted(smallest['name'])}.",
        "spec:\n  hyperparameters:\n    balance: Sampling\n  metric: balanced",
    )
