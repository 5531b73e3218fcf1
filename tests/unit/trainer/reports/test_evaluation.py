"""Reports after a training: the page, the same as JSON, and the predictions."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bloomery_trainer.engine.calibration import calibrate
from bloomery_trainer.engine.held_out import EvaluationResult
from bloomery_trainer.reports.evaluation import ReportMetadata, write_reports
from tests.unit.trainer.reports.conftest import page_of

HOSTILE = "<script>alert('1')</script>"


@pytest.mark.feature("T10")
def test_the_json_twin_says_what_was_returned(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    document = write_reports(tmp_path, about(("a", "b", "c"), wrong=10))

    assert json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == document
    assert document["split"] == "validation"
    assert document["test"] is None
    assert document["images"] == 120
    assert document["metrics"]["top1"] == pytest.approx(0.75)
    assert document["confusionMatrix"] == [[30, 10, 0], [0, 30, 10], [10, 0, 30]]
    assert document["classes"][0] == {
        "name": "a", "images": 40, "answers": 40, "trainImages": 120,
        "precision": 0.75, "recall": 0.75, "f1": 0.75, "auc": pytest.approx(0.8125),
    }  # fmt: skip
    assert document["confusions"][0] == {"label": "a", "predicted": "b", "images": 10, "share": 0.25}


@pytest.mark.feature("T10")
@pytest.mark.feature("D13")
def test_test_set_decides_if_there_is_one(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    document = write_reports(tmp_path, about(("a", "b"), wrong=2, test=50, wrong_on_test=20))

    assert document["split"] == "test"
    assert document["metrics"]["top1"] == pytest.approx(0.6)
    assert document["test"]["metrics"] == document["metrics"]
    assert document["validation"]["metrics"]["top1"] == pytest.approx(0.95)
    assert any("35.0 points worse than on the validation images" in warning for warning in warnings(document))


@pytest.mark.feature("T10")
def test_every_figure_stands_on_the_page_with_what_it_means(
    about: Callable[..., ReportMetadata], tmp_path: Path
) -> None:
    page = page_of(tmp_path, about(tuple("abcdefg"), wrong=4, test=30))

    for words in (
        "Accuracy (top 1)", "Top 2", "Top 3", "Top 4", "Top 5", "Precision", "Recall", "F1", "AUC", "Cohen's kappa",
        "Loss", "Confusion matrix", "Class by class", "Misclassified test images", "How to read this", "95 % interval",
        "each class counting the same",
    ):  # fmt: skip
        assert words in page.text


@pytest.mark.feature("T10")
def test_misclassified_images_are_shown_by_their_true_class(
    about: Callable[..., ReportMetadata], tmp_path: Path
) -> None:
    page = page_of(tmp_path, about(("a", "b"), wrong=3))
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]

    assert len(pictures) == 6
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in pictures)
    assert {picture["alt"] for picture in pictures} == {f"bilder/{number}.jpg" for number in (0, 1, 2, 40, 41, 42)}


@pytest.mark.feature("T10")
def test_a_page_about_thousands_of_mistakes_stays_small(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(300))
    page_of(tmp_path, about(classes, train=1, validation=10, wrong=5))

    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    assert json.loads((tmp_path / "evaluation.json").read_text())["confusionMatrix"] is None


@pytest.mark.feature("T10")
@pytest.mark.feature("D12")
def test_training_set_is_shown_by_class_and_dataset(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    document = write_reports(tmp_path, about(("a", "b"), train=[100, 31], datasets=2))

    assert document["trainingSet"] == [
        {"class": "a", "dataset": "flowers", "train": 50, "validation": 20},
        {"class": "a", "dataset": "more", "train": 50, "validation": 20},
        {"class": "b", "dataset": "flowers", "train": 16, "validation": 20},
        {"class": "b", "dataset": "more", "train": 15, "validation": 20},
    ]


@pytest.mark.feature("T10")
@pytest.mark.parametrize(
    ("wrong", "level"), [(0, "excellent"), (4, "good"), (10, "fair"), (18, "weak"), (39, "unusable")]
)
def test_the_verdict_follows_the_share_of_right_answers(
    about: Callable[..., ReportMetadata], tmp_path: Path, wrong: int, level: str
) -> None:
    verdict = write_reports(tmp_path, about(("a", "b", "c"), wrong=wrong))["verdict"]

    assert verdict["level"] == level
    assert verdict["sentences"][0].lower().startswith(level)
    assert f"{120 - 3 * wrong} of 120 validation images" in verdict["sentences"][0]


@pytest.mark.feature("T10")
def test_the_verdict_names_what_is_confused_most(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    sentences = write_reports(tmp_path, about(("roses", "tulips"), wrong=8))["verdict"]["sentences"]

    assert any("“roses” taken for “tulips” (8 images, 20.0 % of that class)" in sentence for sentence in sentences)


@pytest.mark.feature("T10")
def test_too_few_images_are_warned_about(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    text = "\n".join(warnings(write_reports(tmp_path, about(("a", "b"), train=[500, 30], validation=8, wrong=1))))

    assert "1 class has under 100: “b” (30)" in text
    assert "The training set is uneven: 500 images of “a”, 30 of “b”" in text
    assert "Judged by 16 images only" in text
    assert "2 classes have under 20 validation images" in text


@pytest.mark.feature("T24")
@pytest.mark.parametrize(
    ("counts", "balance", "words"),
    [
        ([500, 100], "None", "set hyperparameters.balance: Sampling or Loss"),
        ([499, 100], "None", None),
        ([500, 100], "Loss", "training balanced the classes (hyperparameters.balance: Loss)"),
    ],
)
def test_balance_is_proposed_where_classes_differ_five_to_one(
    about: Callable[..., ReportMetadata], tmp_path: Path, counts: list[int], balance: str, words: str | None
) -> None:
    text = "\n".join(warnings(write_reports(tmp_path, about(("a", "b"), train=counts, balance=balance))))

    assert ("The training set is uneven" in text) is (words is not None)
    assert words is None or words in text
    assert ("Sampling or Loss" in text) is (words is not None and balance == "None")


@pytest.mark.feature("T24")
def test_balanced_accuracy_stands_on_the_page(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    assert "Balanced accuracy" in page_of(tmp_path, about(("a", "b"), wrong=4)).text


@pytest.mark.feature("T9")
def test_the_page_says_what_the_model_computes_in(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    assert "resnet50 · int8" in page_of(tmp_path, about(("a", "b"), data_type="int8")).text


@pytest.mark.feature("T19")
@pytest.mark.parametrize(
    ("kind", "words"), [("Scratch", "· from scratch"), ("Published", "· from the weights DEFAULT of resnet50")]
)
def test_the_page_says_what_training_started_from(
    about: Callable[..., ReportMetadata], tmp_path: Path, kind: str, words: str
) -> None:
    start = {"kind": kind, "origin": "the weights DEFAULT of resnet50", "warning": ""}
    page = page_of(tmp_path, about(("a", "b"), start=start))

    assert words in " ".join(page.text.split())


@pytest.mark.feature("T22")
def test_the_last_epochs_figures_stand_beside_the_registered_ones(
    about: Callable[..., ReportMetadata], tmp_path: Path
) -> None:
    last = {"epoch": 30, "top1": 0.1234, "loss": 2.5}
    page = page_of(tmp_path, about(("a", "b"), test=30, last_epoch=last))
    text = " ".join(page.text.split())

    assert "validation,last epoch (30)" in text
    assert re.search(r"Accuracy \(top 1\) ?1\.0000 ?1\.0000 ?0\.1234", text)
    # What an epoch does not compute stays open.
    assert re.search(r"F1, weighted ?1\.0000 ?1\.0000 ?–", text)


def test_enough_images_are_not_warned_about(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    assert warnings(write_reports(tmp_path, about(("a", "b"), train=200, validation=300, wrong=6))) == []


@pytest.mark.feature("D6")
@pytest.mark.feature("T10")
def test_class_names_are_escaped_in_the_report(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        about(
            ("美食/凉皮", HOSTILE, '"><img src=x onerror=alert(1)>'),
            wrong=3,
            title=HOSTILE,
            key=lambda number: f"{number}'\"><script>.jpg",
        ),
    )
    tags = {tag for tag, _ in page.elements}

    assert "美食/凉皮" in page.text
    assert HOSTILE in page.text
    assert "script" not in tags
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


@pytest.mark.feature("T10")
def test_the_page_needs_nothing_from_outside(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    page = page_of(tmp_path, about(("a", "b"), wrong=3))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    sources = [
        str(attributes[name]) for _, attributes in page.elements for name in ("src", "href") if name in attributes
    ]

    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|@import|url\(", html)


@pytest.mark.feature("T9")
def test_the_predictions_list_every_held_out_image(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    write_reports(tmp_path, about(("a", "b"), validation=4, test=3, wrong=1, datasets=2))
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))

    assert [line["split"] for line in lines] == ["validation"] * 8 + ["test"] * 6
    assert lines[0] == {
        "split": "validation", "dataset": "flowers", "image": "bilder/0.jpg", "label": "a", "predicted": "b",
        "score": "0.7000", "correct": "no",
    }  # fmt: skip
    assert lines[1]["dataset"] == "more"
    assert lines[1]["correct"] == "yes"


@pytest.mark.feature("T18")
def test_evaluated_model_has_a_report_without_training(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    page = page_of(tmp_path, about(("a", "b"), train=0, best_epoch=None))

    assert "epoch" not in page.text.split("Confusion matrix")[0].split("All figures")[0]


def warnings(document: dict[str, Any]) -> list[str]:
    texts: list[str] = document["verdict"]["warnings"]
    return texts


@pytest.mark.feature("T28")
def test_mistakes_have_pictures_of_where_the_network_looked(
    about: Callable[..., ReportMetadata], tmp_path: Path
) -> None:
    classes: list[int] = []

    def picture(data: bytes, answer: int) -> Image.Image:
        classes.append(answer)
        return Image.open(io.BytesIO(data))

    write_reports(tmp_path, about(("a", "b"), wrong=40, picture=picture))

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('alt="where the network looked"') == len(classes) == 60, "no page takes minutes for its pictures"
    assert set(classes) == {0, 1}


@pytest.mark.feature("T26", "T27")
def test_the_page_shows_calibration_and_thresholds(about: Callable[..., ReportMetadata], tmp_path: Path) -> None:
    metadata = about(("a", "b", "c"), wrong=10)
    calibration = calibrate(EvaluationResult(metadata.validation, None))

    document = write_reports(tmp_path, replace(metadata, calibration=calibration))

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 2
    assert "Expected calibration error" in page
    assert document["calibration"]["temperature"] == calibration.temperature
    assert document["thresholds"]["levels"][0] == {"confidence": 0.0, "answered": 1.0, "right": 0.75}


@pytest.mark.feature("T26")
@pytest.mark.parametrize("start", [None, {"kind": "Scratch", "origin": "", "warning": ""}])
def test_only_a_model_that_was_trained_contains_its_temperature(
    about: Callable[..., ReportMetadata], tmp_path: Path, start: dict[str, str] | None
) -> None:
    metadata = about(("a", "b", "c"), wrong=10, start=start)
    calibration = calibrate(EvaluationResult(metadata.validation, None))

    text = page_of(tmp_path, replace(metadata, calibration=calibration)).text

    assert ("the model file contains the temperature" in text) == (start is not None)
    assert ("they would be" in text) == (start is None)
