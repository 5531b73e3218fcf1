"""Suspected labels in the report: pictures, blocks to paste, and lines for programs."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bloomery_trainer.engine.suspects import Suspect, Suspects
from bloomery_trainer.reports.evaluation import ReportMetadata, write_reports
from tests.unit.trainer.reports.conftest import About, page_of

pytestmark = pytest.mark.feature("D16")


def suspect(index: int, *, label: int = 0, likely: int = 1, score: float = 0.9) -> Suspect:
    return Suspect(index=index, given_class=label, likely_class=likely, given_score=0.01, likely_score=score)


def with_suspects(metadata: ReportMetadata, *items: Suspect, **changes: object) -> ReportMetadata:
    images = len(metadata.dataset.splits["train"])
    suspects = Suspects(items=items, examined=images, images=images)
    return replace(metadata, suspects=replace(suspects, **changes))


def test_each_suspect_is_a_line_for_programs(about: About, tmp_path: Path) -> None:
    metadata = with_suspects(about(("roses", "花"), datasets=2), suspect(3), suspect(4, score=0.4))
    document = write_reports(tmp_path, metadata)

    lines = [json.loads(line) for line in (tmp_path / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {
        "number": 1, "dataset": "more", "image": "bilder/3.jpg", "class": "roses", "likely": "花",
        "classScore": 0.01, "likelyScore": 0.9, "action": "Move",
    }  # fmt: skip
    assert (lines[1]["dataset"], lines[1]["action"]) == ("flowers", "Exclude")
    assert (document["labels"]["suspects"], document["labels"]["examined"]) == (2, 240)


def test_the_first_hundred_are_shown_in_pictures(about: About, tmp_path: Path) -> None:
    page = page_of(tmp_path, with_suspects(about(("a", "b")), *map(suspect, range(120))))

    pictures = [attrs for tag, attrs in page.elements if tag == "img" and "bilder" in str(attrs.get("alt"))]
    assert len(pictures) == 100
    assert all(str(attrs["src"]).startswith("data:image/jpeg;base64,") for attrs in pictures)
    assert "120 of 240 training images probably have another class" in page.text
    assert "The first 100 of them" in page.text
    assert len((tmp_path / "suspects.jsonl").read_text().splitlines()) == 120


def test_blocks_to_paste_are_yaml_for_each_dataset(about: About, tmp_path: Path) -> None:
    metadata = about(("a", "b: [x]"), datasets=2, key="a{}[1] # 'x'.jpg".format)
    write_reports(tmp_path, with_suspects(metadata, suspect(2), suspect(4, score=0.4), suspect(5)))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")

    blocks = [html.unescape(block) for block in re.findall("<pre>(.*?)</pre>", page, re.DOTALL)]
    first, second = (yaml.safe_load(block)["spec"] for block in blocks)
    assert first == {
        "move": [{"image": "a2[1] # 'x'.jpg", "class": "b: [x]"}],
        "exclude": ["a4[[]1] # 'x'.jpg"],
    }
    assert second == {"move": [{"image": "a5[1] # 'x'.jpg", "class": "b: [x]"}]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_from_scratch": True}, "these suspects are weaker than after a training from published weights"),
        (
            {"examined": 100},
            "140 other training images were not examined: they are beyond the random sample of at most 20000",
        ),
        ({"fault": "ValueError: <broken>"}, "The labels could not be examined: ValueError: <broken>"),
    ],
)
def test_page_says_what_limits_the_suspects(
    about: About,
    tmp_path: Path,
    changes: dict[str, object],
    words: str,
) -> None:
    page = page_of(tmp_path, with_suspects(about(("a", "b")), suspect(1), **changes))

    assert words in page.text
    assert (tmp_path / "suspects.jsonl").exists() is ("fault" not in changes)


def test_labels_that_were_not_examined_are_not_mentioned(about: About, tmp_path: Path) -> None:
    page = page_of(tmp_path, about(("a", "b")))

    assert "Suspected labels" not in page.text
    assert not (tmp_path / "suspects.jsonl").exists()


def test_classes_with_low_recall_or_few_images_are_to_be_photographed(
    about: About,
    tmp_path: Path,
) -> None:
    weak = write_reports(tmp_path, about(("a", "b", "c"), train=[120, 40, 120], wrong=12))
    good = write_reports(tmp_path, about(("a", "b"), wrong=1))

    (step,) = weak["advice"]
    assert "Photograph next: “b” (70.0 % of its images found, 40 to train with)" in step["sentence"]
    assert good["advice"] == []


def test_rising_metric_and_uneven_classes_have_lines_to_paste(about: About, tmp_path: Path) -> None:
    metadata = about(("a", "b"), train=[700, 120], last_epoch={"epoch": 30, "top1": 0.9}, still_improving=True)
    page = page_of(tmp_path, metadata)

    assert "Train longer: top1 was still rising in the last of 30 epochs (0.9000 on the validation images)" in page.text
    assert "hyperparameters:\n    epochs: 60" in page.text
    by_steps = write_reports(tmp_path, dataclasses.replace(metadata, length=3000))
    by_schedule = write_reports(tmp_path, dataclasses.replace(metadata, length="learningRateSchedule"))
    assert by_steps["advice"][0]["paste"] == "spec:\n  hyperparameters:\n    maxSteps: 6000"
    assert by_schedule["advice"][0]["paste"] is None
    assert "“a” has 5.8 times as many training images as “b”" in page.text
    assert "hyperparameters:\n    balance: Sampling\n  metric: balanced" in page.text


def test_image_is_not_moved_to_a_class_that_its_dataset_lacks(about: About, tmp_path: Path) -> None:
    metadata = about(("a", "b"), datasets=2)
    for files in metadata.dataset.splits.values():
        files.records["part"] = files.records["label"]
    write_reports(tmp_path, with_suspects(metadata, suspect(1)))

    (line,) = (tmp_path / "suspects.jsonl").read_text(encoding="utf-8").splitlines()
    assert (json.loads(line)["dataset"], json.loads(line)["action"]) == ("flowers", "Exclude")
