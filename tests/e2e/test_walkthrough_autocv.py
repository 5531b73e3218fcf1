"""The walk-through examples/autocv: its page's commands as they stand, and what its user would look at."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page
from sklearn.metrics import precision_recall_fscore_support

from dev.paths import ROOT
from testing.cluster_store import read_file
from testing.dev_cluster import Kubectl, eventually
from tests.component.serving.browser import SCREENSHOTS, chromium
from tests.e2e.walkthrough import (
    FLOWERS,
    MakeNamespace,
    complete,
    nothing_is_left,
    open_walkthrough,
    registered_version,
)
from tools.docs_blocks import run_by

pytestmark = pytest.mark.extended

CHOSEN = {"roses": (80, 20), "sunflowers": (80, 20), "tulips": (88, 22)}
"""The classes that are trained on, with their images for training and validation."""
PRESETS = {"general": "StoppedEarly", "high-precision": "Stopped", "high-performance": "Trained"}
"""The three trainings, and how each ends."""
BAD = {
    "roses/broken.jpg": ("Corrupt", "cannot be decoded: image file is truncated"),
    "roses/tiny.jpg": ("TooSmall", "24×24, the shorter side is under 31"),
    "roses/wide.jpg": ("AspectRatio", "400×100, more than 3:1"),
}
TEN = [*(name for name in CHOSEN for _ in range(3)), "roses"]
"""The classes of the ten images."""


@pytest.fixture(scope="module")
def kit_image() -> None:
    """Put the image that packs kits where the kubelet looks for it: a cluster runs without."""
    built = subprocess.run([sys.executable, "-m", "dev", "images", "kit"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.mark.usefixtures("kit_image")
@pytest.mark.feature("D4", "D5", "D7", "D12")
@pytest.mark.feature("T1", "T3", "T4", "T8", "T10")
@pytest.mark.feature("S5", "S6", "S7", "O5")
def test_a_zip_becomes_a_model_by_each_preset(make_namespace: MakeNamespace, tmp_path: Path) -> None:
    """One model is checked, published, packed as a kit and trained further."""
    kubectl = make_namespace("walk-autocv")
    with open_walkthrough("autocv", kubectl, tmp_path, run_by(__file__)) as (shell, commands):
        check, dataset, train, follow, report, publish, eleven, stop, kit, start, retrain, away = commands
        checked = shell.run(check)
        shell.run(dataset)
        assert_the_bad_images_are_left_out(kubectl, checked, tmp_path / "dataset.html")
        output = shell.run(train)
        assert ("TrainingJob", "autocv-high-precision", "trains") in alive(output)
        assert_each_preset_made_a_version(kubectl, output + shell.run(follow))
        shell.run(report)
        for preset in PRESETS:
            assert_the_report_is_that_of_the_predictions(kubectl, tmp_path / f"{preset}.html")
        assert named(shell.run(publish)) == [(name, name) for name in TEN]
        assert_an_eleventh_is_refused(shell.run(eleven))
        url, key = address(kubectl), kubectl.secret("autocv-api-key")
        shell.run(stop)
        assert_no_server_is_left(kubectl, url)
        assert_the_kit_has_the_same_model(kubectl, shell.run(kit))
        assert named(shell.run(start)) == [("tulips", "tulips")]
        assert kubectl.secret("autocv-api-key") == key
        assert_it_has_moved(url, address(kubectl))
        assert_it_was_trained_on(kubectl, shell.run(retrain))
        before, _, after = shell.run(away).partition("deleted")
        assert alive(before) == {
            ("TrainingJob", "autocv-general", "shows TensorBoard"),
            ("InferenceService", "autocv", "serves"),
        }
        assert "Nothing of Bloomery runs or takes room in this namespace." in after
    assert nothing_is_left(kubectl)


def assert_the_bad_images_are_left_out(kubectl: Kubectl, checked: str, report: Path) -> None:
    """The check before the upload, the status and the report say the same."""
    status = kubectl.get("dset", "autocv")["status"]
    classes = {c["name"]: (c["train"], c["validation"]) for c in status["classes"]}
    foretold = re.findall(r"^(\w+) +(\d+) +(\d+)$", checked, re.MULTILINE)
    assert classes == dict.fromkeys(FLOWERS, (80, 20)) | CHOSEN
    assert classes == {name: (int(train), int(validation)) for name, train, validation in foretold}
    assert status["ignored"] == Counter(reason for reason, _ in BAD.values())
    assert "3 ignored: 1 AspectRatio, 1 Corrupt, 1 TooSmall" in checked
    with opened(report) as page:
        listed = {name: (reason, detail) for name, reason, detail in rows(page, "details tbody tr")}
        assert page.locator(".pictures img").count() >= len(FLOWERS)
    assert listed.keys() == BAD.keys()
    for name, (reason, detail) in BAD.items():
        assert listed[name][0] == reason
        assert listed[name][1].startswith(detail)


def assert_each_preset_made_a_version(kubectl: Kubectl, followed: str) -> None:
    for preset, reason in PRESETS.items():
        job = kubectl.get("tj", f"autocv-{preset}")
        status = job["status"]
        log = read_file(folder_of(status), "train.log").decode()
        assert complete(job)["reason"] == reason
        assert f"Complete: {reason}: " in followed
        assert f"{preset} from scratch: 248 images of 3 classes" in log
        assert status["metric"] == f"f1 {status['metrics']['f1']:.4f}"
        assert registered_version(status["model"])["status"] == "READY"
        assert read_file(status["model"]["uri"], "labels.txt").decode().splitlines() == list(CHOSEN)
    assert kubectl.get("tj", "autocv-general")["status"]["metrics"]["f1"] >= 0.9


def assert_the_report_is_that_of_the_predictions(kubectl: Kubectl, path: Path) -> None:
    """The page's matrix and figures, against those that scikit-learn finds in predictions.csv."""
    status = kubectl.get("tj", f"autocv-{path.stem}")["status"]
    lines = list(csv.DictReader(io.StringIO(read_file(folder_of(status), "predictions.csv").decode())))
    true, predicted = [line["label"] for line in lines], [line["predicted"] for line in lines]
    counts = Counter(zip(true, predicted, strict=True))
    figures = precision_recall_fscore_support(true, predicted, labels=list(CHOSEN), zero_division=0)[:3]
    with opened(path) as page:
        matrix = {
            name: [0 if cell == "·" else int(cell) for cell in cells] for name, *cells in rows(page, ".matrix tbody tr")
        }
        classes = rows(page, "h2:text('Class by class') + div tbody tr")
        mistakes = [image.get_attribute("alt") for image in page.locator("figure img").all()]
    assert matrix == {name: [counts[name, answer] for answer in CHOSEN] for name in CHOSEN}
    assert [row[:3] for row in classes] == [[name, *map(str, images)] for name, images in CHOSEN.items()]
    shown = [[0 if cell == "–" else float(cell) for cell in row[4:7]] for row in classes]
    assert shown == [pytest.approx(list(figure), abs=1e-3) for figure in zip(*figures, strict=True)]
    means = {name: status["metrics"][name] for name in ("precision", "recall", "f1")}
    assert list(means.values()) == pytest.approx([sum(figure) / 3 for figure in figures], abs=1e-4)
    assert Counter(mistakes) == Counter(line["image"] for line in lines if line["label"] != line["predicted"])
    assert any(str(image).startswith("tulips/rose-") for image in mistakes)


def assert_an_eleventh_is_refused(output: str) -> None:
    sentence = "A request may have 10 images at most; send more in several."
    assert json.loads(output)["error"] == {"code": "TooManyImages", "message": sentence}


def assert_no_server_is_left(kubectl: Kubectl, url: str) -> None:
    of_service = "--selector=bloomery.dev/inferenceservice=autocv"
    eventually("no pod is left", lambda: not kubectl.get("pods", "", of_service), seconds=90)
    eventually("503", lambda: httpx.post(f"{url}/predict", timeout=60).status_code == 503, seconds=60)


def assert_the_kit_has_the_same_model(kubectl: Kubectl, output: str) -> None:
    """Require that the answers of the server on this machine are of the service's model."""
    answer = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    model = kubectl.get("tj", "autocv-general")["status"]["model"]
    assert answer["label"] == "roses"
    assert next(iter(answer["scores"])) == "roses"
    assert (answer["model"]["digest"], answer["model"]["version"]) == (model["digest"], model["version"])


def assert_it_has_moved(old: str, new: str) -> None:
    assert new.endswith("/autocv-again")
    eventually("404", lambda: httpx.post(f"{old}/predict", timeout=60).status_code == 404, seconds=30)


def assert_it_was_trained_on(kubectl: Kubectl, output: str) -> None:
    assert "autocv-general-2 is made from autocv-general; " in output
    first, second = kubectl.get("tj", "autocv-general"), kubectl.get("tj", "autocv-general-2")
    model = first["status"]["model"]
    assert complete(second)["reason"] == "Trained"
    assert second["status"]["initialModel"] == f"TrainingJob autocv-general ({model['display']})"
    assert second["status"]["metric"] == f"recall {second['status']['metrics']['recall']:.4f}"
    assert second["status"]["metrics"]["recall"] >= 0.9
    assert second["status"]["model"]["name"] == model["name"]
    assert int(second["status"]["model"]["version"]) > int(model["version"])


def named(output: str) -> list[tuple[str, str]]:
    """Of each image that `predict` shows: its class, which its folder names, and the likeliest one."""
    return re.findall(r"^unseen/(\w+)/\d\.jpg +(\w+) ", output, re.MULTILINE)


def alive(output: str) -> set[tuple[str, str, str]]:
    """Return the kinds, names and activities that `live` lists."""
    return set(re.findall(r"^([A-Z][A-Za-z]+) +(\S+) +(.+?) {2,}\d", output, re.MULTILINE))


@contextmanager
def opened(report: Path) -> Iterator[Page]:
    """A report in a browser."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(report.as_uri())
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"walk-autocv-{report.stem}.png", full_page=True)
        yield page


def rows(page: Page, selector: str) -> list[list[str]]:
    """The cells of a table's rows."""
    return [row.locator("th, td").all_inner_texts() for row in page.locator(selector).all()]


def address(kubectl: Kubectl) -> str:
    return str(kubectl.get("isvc", "autocv")["status"]["url"])


def folder_of(status: dict[str, Any]) -> str:
    """A job's output folder."""
    return str(status["model"]["uri"]).removesuffix("/model")
