"""The figures of an evaluation in words: how good the model is, what it confuses, and what the figures hide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LEVELS = (("excellent", 0.95), ("good", 0.85), ("fair", 0.7))
"""Least shares of right answers; below the last a model is weak."""

FEW_TRAINING_IMAGES = 100
_FEW_JUDGED_IMAGES = 20
_WIDE = 0.1
_IMBALANCE = 5
"""So many times as many training images in the largest class as in the smallest are worth balancing."""

_GAP = 0.05
_NAMED = 5

Document = Mapping[str, Any]


def verdict(document: Document) -> dict[str, Any]:
    """Return the level, sentences about it, and warnings, from the other parts of evaluation.json."""
    level = _level(document)
    sentences = (_overall(document, level), _top5(document), _weakest(document), _confused(document))
    warnings = (
        _no_better_than_guessing(document, level),
        _few_training_images(document),
        _imbalance(document),
        _wide_interval(document),
        _few_judged_images(document),
        None if _of_one_class(document) else _not_judged(document),
        _one_class(document),
        _worse_on_test(document),
    )
    return {
        "level": level,
        "sentences": [sentence for sentence in sentences if sentence],
        "warnings": [warning for warning in warnings if warning],
    }


def percent(share: float) -> str:
    """Format a share as a percentage."""
    return f"{100 * share:.1f} %"


def _level(document: Document) -> str:
    if not _of_one_class(document) and document["interval95"]["top1"][0] <= _guessing(document)[1]:
        return "unusable"
    top1 = document["metrics"]["top1"]
    return next((name for name, least in LEVELS if top1 >= least), "weak")


def _of_one_class(document: Document) -> bool:
    return len([entry for entry in document["classes"] if entry["images"]]) == 1


def _guessing(document: Document) -> tuple[str, float]:
    """Return the most frequent class, and how often always answering it would be right."""
    largest = max(document["classes"], key=lambda entry: entry["images"])
    return largest["name"], largest["images"] / document["images"]


def _overall(document: Document, level: str) -> str:
    low, high = document["interval95"]["top1"]
    right = round(document["metrics"]["top1"] * document["images"])
    return (
        f"{level.capitalize()}: {right} of {document['images']} {document['split']} images are recognised, "
        f"{percent(document['metrics']['top1'])} (95 % interval {percent(low)} to {percent(high)})."
    )


def _top5(document: Document) -> str | None:
    if len(document["classes"]) <= 10 or document["metrics"]["top1"] >= LEVELS[0][1]:
        return None
    return f"The right class is among the five most probable for {percent(document['metrics']['top5'])} of them."


def _weakest(document: Document) -> str | None:
    known = [entry for entry in document["classes"] if entry["f1"] is not None and entry["f1"] < LEVELS[1][1]]
    if not known:
        return "No class stands out as weak: every one has an F1 of at least 0.85."
    worst = sorted(known, key=lambda entry: entry["f1"])[:3]
    listed = _listed(
        f"{quoted(entry['name'])} (F1 {entry['f1']:.2f}: {percent(entry['recall'])} of its images are found, "
        f"{percent(entry['precision'])} of its answers are right)"
        for entry in worst
    )
    return f"Weakest: {listed}."


def _confused(document: Document) -> str | None:
    pairs = document["confusions"][:3]
    if not pairs:
        return "Not one image was confused."
    listed = _listed(
        f"{quoted(pair['label'])} taken for {quoted(pair['predicted'])} "
        f"({_images(pair['images'])}, {percent(pair['share'])} of that class)"
        for pair in pairs
    )
    return f"Most often confused: {listed}."


def _no_better_than_guessing(document: Document, level: str) -> str | None:
    name, share = _guessing(document)
    if level != "unusable":
        return None
    return (
        f"This may be no better than guessing: always answering {quoted(name)}, the most frequent class, would be "
        f"right for {percent(share)}. Train longer, or look at the images and their labels."
    )


def _few_training_images(document: Document) -> str | None:
    few = [
        (entry["trainImages"], entry["name"])
        for entry in document["classes"]
        if entry["trainImages"] is not None and entry["trainImages"] < FEW_TRAINING_IMAGES
    ]
    if not few:
        return None
    named = _some(f"{quoted(name)} ({count})" for count, name in sorted(few))
    return f"Too few training images: {_classes(len(few))} under {FEW_TRAINING_IMAGES}: {named}."


def find_imbalance(document: Document) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Return the classes with the fewest and the most training images, if that is worth balancing."""
    trained = [entry for entry in document["classes"] if entry["trainImages"]]
    if not trained:
        return None
    least, most = (choose(trained, key=lambda entry: entry["trainImages"]) for choose in (min, max))
    return None if most["trainImages"] < _IMBALANCE * least["trainImages"] else (least, most)


def _imbalance(document: Document) -> str | None:
    imbalance = find_imbalance(document)
    if imbalance is None:
        return None
    least, most = imbalance
    return (
        f"The training set is uneven: {_images(most['trainImages'])} of {quoted(most['name'])}, "
        f"{least['trainImages']} of {quoted(least['name'])}. Look at F1 rather than at the share of right answers"
        f"{_balance_proposal(document)}."
    )


def _balance_proposal(document: Document) -> str:
    if document["balance"] != "None":
        return f"; training balanced the classes (hyperparameters.balance: {document['balance']})"
    return (
        "; so that training counts small classes as much, set hyperparameters.balance: Sampling or Loss, and metric: "
        "balanced to choose the best epoch by"
    )


def _one_class(document: Document) -> str | None:
    if not _of_one_class(document):
        return None
    (name,) = (entry["name"] for entry in document["classes"] if entry["images"])
    return (
        f"All {document['split']} images are of one class, {quoted(name)}: this says how often it is recognised, and "
        "nothing of how often other images are taken for it."
    )


def _wide_interval(document: Document) -> str | None:
    low, high = document["interval95"]["top1"]
    if high - low <= _WIDE:
        return None
    return (
        f"Judged by {_images(document['images'])} only, the share of right answers is uncertain: anything from "
        f"{percent(low)} to {percent(high)} is plausible. A larger {document['split']} set says more."
    )


def _few_judged_images(document: Document) -> str | None:
    few = [entry["name"] for entry in document["classes"] if 0 < entry["images"] < _FEW_JUDGED_IMAGES]
    if not few:
        return None
    return (
        f"{_classes(len(few)).capitalize()} under {_FEW_JUDGED_IMAGES} {document['split']} images "
        f"({_some(map(quoted, few))}): their own figures are rough."
    )


def _not_judged(document: Document) -> str | None:
    none = [entry["name"] for entry in document["classes"] if not entry["images"]]
    if not none:
        return None
    return f"There are no {document['split']} images of {_some(map(quoted, none))}: nothing is known of that."


def _worse_on_test(document: Document) -> str | None:
    if document["test"] is None:
        return None
    validation, test = document["validation"]["metrics"]["top1"], document["test"]["metrics"]["top1"]
    if validation - test < _GAP:
        return None
    return (
        f"On the test images it is {100 * (validation - test):.1f} points worse than on the validation images, by "
        "which the best epoch was chosen. Trust the test images."
    )


def quoted(name: str) -> str:
    """Put a class name into quotation marks."""
    return f"“{name}”"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _classes(count: int) -> str:
    return "1 class has" if count == 1 else f"{count} classes have"


def _listed(parts: Iterable[str]) -> str:
    return "; ".join(parts)


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _NAMED
    return ", ".join(every[:_NAMED]) + (f" and {more} more" if more > 0 else "")
