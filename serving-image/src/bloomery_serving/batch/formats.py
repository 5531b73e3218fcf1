"""Formats of predictions: JSON Lines with the entries of a service's answers, or CSV with a column for each score."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Protocol

from bloomery_serving.batch.settings import OutputFormat
from bloomery_serving.prediction import Prediction


class PredictionFormat(Protocol):
    """Turns predictions into the content of a file, and back into labels."""

    extension: str

    def encode(self, predictions: Sequence[Prediction]) -> bytes:
        """Return the content of a file."""

    def read_labels(self, content: bytes) -> list[tuple[str, str | None]]:
        """Return each image of a file with its label; None if it is unknown."""


class JsonLines:
    """A line for each image: the entry that the service answers among several images, without the id."""

    extension = "jsonl"

    def encode(self, predictions: Sequence[Prediction]) -> bytes:
        """Return the content of a file."""
        documents = ({"file": prediction.file, **prediction.document} for prediction in predictions)
        return "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents).encode()

    def read_labels(self, content: bytes) -> list[tuple[str, str | None]]:
        """Return each image of a file with its label; None if it is unknown."""
        # A name may have a line separator of Unicode, which JSON leaves as it is.
        documents = (json.loads(line) for line in content.split(b"\n") if line)
        return [(document["file"], document["label"]) for document in documents]


class Csv:
    """A row for each image, with the columns that ``pandas.json_normalize`` makes of the lines of JSON."""

    extension = "csv"

    def __init__(self, labels: Sequence[str]) -> None:
        """``labels`` are the names of all classes."""
        self._labels = labels

    def encode(self, predictions: Sequence[Prediction]) -> bytes:
        """Return the content of a file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "label", "unknown", *(f"scores.{label}" for label in self._labels)])
        for prediction in predictions:
            known = [prediction.label, "false"] if prediction.label is not None else ["", "true"]
            writer.writerow([prediction.file, *known, *(prediction.scores[label] for label in self._labels)])
        return text.getvalue().encode()

    def read_labels(self, content: bytes) -> list[tuple[str, str | None]]:
        """Return each image of a file with its label; None if it is unknown."""
        rows = csv.reader(io.StringIO(content.decode(), newline=""))
        next(rows)
        return [(file, None if unknown == "true" else label) for file, label, unknown, *_ in rows]


def open_format(name: OutputFormat, labels: Sequence[str]) -> PredictionFormat:
    """Return a format for a model with these classes."""
    return Csv(labels) if name == "CSV" else JsonLines()
