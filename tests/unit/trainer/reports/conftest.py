"""Reports on made-up evaluations, and their pages as a browser sees them."""

from __future__ import annotations

import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bloomery_trainer.config import DatasetVersion
from bloomery_trainer.data.dataset import _RECORD, ImageFiles, LocalDataset
from bloomery_trainer.engine.evaluation import Evaluation
from bloomery_trainer.reports.evaluation import ReportMetadata, write_reports

Labels = NDArray[np.int64]
About = Callable[..., ReportMetadata]


def stored(path: Path, labels: Labels, parts: Labels, key: Callable[[int], str]) -> ImageFiles:
    """Images of one split, as fetching leaves them on the disk."""
    buffer = io.BytesIO()
    Image.effect_noise((60, 40), 80).convert("RGB").save(buffer, "JPEG")
    image, records, content = buffer.getvalue(), [], b""
    for number, (label, part) in enumerate(zip(labels, parts, strict=True)):
        name = key(number).encode()
        start = len(content)
        records.append((0, label, part, start, len(image), start + len(image), len(name)))
        content += image + name
    path.write_bytes(content)
    return ImageFiles(np.array(records, _RECORD), (path,))


def evaluation(labels: Labels, answers: Labels, classes: int) -> Evaluation:
    """Return the evaluation of a model that gives `answers`, with a probability of 0.7."""
    rest = 0.3 / (classes - 1)
    probabilities = np.full((len(labels), classes), rest, np.float32)
    probabilities[np.arange(len(labels)), answers] = 0.7
    return Evaluation.of(probabilities, labels)


@pytest.fixture
def about(tmp_path: Path) -> Callable[..., ReportMetadata]:
    """A report on a model that takes the first `wrong` images of each class for the next class."""

    def make(
        classes: tuple[str, ...],
        *,
        train: int | list[int] = 120,
        validation: int = 40,
        test: int = 0,
        wrong: int = 0,
        wrong_on_test: int | None = None,
        datasets: int = 1,
        key: Callable[[int], str] = "bilder/{}.jpg".format,
        **changes: Any,
    ) -> ReportMetadata:
        counts = train if isinstance(train, list) else [train] * len(classes)
        splits, evaluations = {}, {}
        for split, per_class in (("train", None), ("validation", validation), ("test", test)):
            labels = np.repeat(np.arange(len(classes)), counts if per_class is None else per_class)
            if not len(labels):
                continue
            splits[split] = stored(tmp_path / split, labels, np.arange(len(labels)) % datasets, key)
            mistakes = wrong_on_test if split == "test" and wrong_on_test is not None else wrong
            place = np.arange(len(labels)) % (per_class or 1)
            answers = np.where(place < mistakes, (labels + 1) % len(classes), labels)
            evaluations[split] = evaluation(labels, answers, len(classes))
        names = ["flowers", "more", "most"][:datasets]
        parts = tuple(DatasetVersion(name=name, version=name[0] * 64, uri=f"file:///{name}") for name in names)
        return ReportMetadata(
            **{"title": "demo/flowers", "preset": "resnet50", "metric": "top1", "best_epoch": 7, **changes},
            dataset=LocalDataset(parts, classes, splits),
            validation=evaluations["validation"],
            test=evaluations.get("test"),
        )

    return make


class Page(HTMLParser):
    """Parser of what a browser would see: elements, their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, about: ReportMetadata) -> Page:
    write_reports(folder, about)
    return Page((folder / "report.html").read_text(encoding="utf-8"))
