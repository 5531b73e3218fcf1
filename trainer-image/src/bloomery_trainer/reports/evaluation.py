"""Reports for people after a run: the evaluation as a page, the same as JSON, and the predictions as CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.reports.document import evaluation_document
from bloomery_trainer.reports.html import render
from bloomery_trainer.reports.metadata import ReportMetadata
from bloomery_trainer.reports.suspects import suspect_lines

__all__ = ["EVALUATION", "PAGE", "PREDICTIONS", "SUSPECTS", "ReportMetadata", "write_reports"]

EVALUATION = "evaluation.json"
PAGE = "report.html"
PREDICTIONS = "predictions.csv"
SUSPECTS = "suspects.jsonl"


def write_reports(folder: Path, metadata: ReportMetadata) -> dict[str, Any]:
    """Write evaluation.json, report.html and predictions.csv into ``folder``, and return evaluation.json's content.

    Where labels were examined, suspects.jsonl has a line for each suspect.
    """
    document = evaluation_document(metadata)
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / EVALUATION).write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(render(document, metadata), encoding="utf-8")
    _write_predictions(folder / PREDICTIONS, metadata.evaluations, dataset=metadata.dataset)
    if metadata.suspects is not None and metadata.suspects.fault is None:
        lines = suspect_lines(metadata.suspects, metadata.dataset)
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        (folder / SUSPECTS).write_text(text, encoding="utf-8")
    return document


def _write_predictions(path: Path, evaluations: dict[str, Evaluation], *, dataset: LocalDataset) -> None:
    """Write one line for each held-out image: where it is from, its class, the model's answer and how sure it was."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "dataset", "image", "label", "predicted", "score", "correct"])
        for split, evaluation in evaluations.items():
            writer.writerows(_rows(split, evaluation, dataset))


def _rows(split: str, evaluation: Evaluation, dataset: LocalDataset) -> list[list[str]]:
    files, classes = dataset.splits[split], dataset.classes
    columns = (files.labels, files.parts, evaluation.predicted, evaluation.probabilities.max(axis=1))
    return [
        [
            split,
            dataset.parts[part].name,
            files.key(index),
            classes[label],
            classes[predicted],
            f"{score:.4f}",
            "yes" if predicted == label else "no",
        ]
        for index, (label, part, predicted, score) in enumerate(zip(*columns, strict=True))
    ]
