"""Files of predictions, and the labels that are read from them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from bloomery_serving.batch.formats import open_format
from bloomery_serving.batch.settings import OutputFormat
from bloomery_serving.prediction import Prediction

LABELS = ("red", 'dark, "blue"', "绿\u2028")
PREDICTIONS = [
    Prediction("1", "a/1.jpg", "red", {"red": 0.9, LABELS[1]: 0.1, LABELS[2]: 0.0}),
    Prediction("2", 'b, "2"\u2028.jpg', LABELS[2], {LABELS[2]: 0.5, "red": 0.3, LABELS[1]: 0.2}),
    Prediction("3", "花.jpg", None, {"red": 0.4, LABELS[2]: 0.31, LABELS[1]: 0.29}),
]


@pytest.mark.feature("S22")
@pytest.mark.parametrize("name", ["JSONL", "CSV"])
def test_labels_of_odd_names_are_read_as_they_were_written(name: OutputFormat) -> None:
    style = open_format(name, LABELS)

    labels = style.read_labels(style.encode(PREDICTIONS))

    assert labels == [("a/1.jpg", "red"), (PREDICTIONS[1].file, LABELS[2]), ("花.jpg", None)]


def test_csv_has_the_scores_of_the_json_lines_by_class() -> None:
    lines = open_format("JSONL", LABELS).encode(PREDICTIONS).decode().split("\n")
    rows = csv.DictReader(io.StringIO(open_format("CSV", LABELS).encode(PREDICTIONS).decode(), newline=""))

    for line, row in zip(filter(None, lines), rows, strict=True):
        document = json.loads(line)
        assert {label: float(row[f"scores.{label}"]) for label in LABELS} == document["scores"]
        assert (row["file"], row["label"] or None) == (document["file"], document["label"])
        assert row["unknown"] == str(document.get("unknown", False)).lower()
