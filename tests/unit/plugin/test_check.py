"""What people learn of their images before they upload them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.plugin.conftest import Bloomery, Pictures

DATASET = """
kind: TrainingJob
---
apiVersion: bloomery.dev/v1alpha1
kind: Dataset
metadata: {name: flowers}
spec:
  source: {uri: s3://flowers/raw, secretRef: {name: s3}}
  rename: {roses: 玫瑰}
  split: {validation: 0.5}
  rules: {minImagesPerClass: 4, minSide: 10, maxBytes: 1Mi}
"""


@pytest.mark.feature("O5")
def test_a_good_folder_is_shown_by_class_and_split(bloomery: Bloomery, pictures: Pictures) -> None:
    ended = bloomery("check", pictures(roses=25, tulips=20))

    assert ended.returncode == 0, ended.stderr
    assert [line.split() for line in ended.stdout.splitlines()[:3]] == [
        ["CLASS", "TRAIN", "VALIDATION"],
        ["roses", "20", "5"],
        ["tulips", "16", "4"],
    ]
    assert "A Dataset of 45 images in 2 classes." in ended.stdout


@pytest.mark.feature("O5")
def test_each_ignored_image_is_named_with_its_reason(bloomery: Bloomery, pictures: Pictures) -> None:
    folder = pictures(roses=20, tulips=20)
    Image.new("RGB", (40, 5)).save(folder / "roses" / "flat[1].png")
    (folder / "tulips" / "broken.jpg").write_bytes(b"no picture")

    ended = bloomery("check", folder)

    assert ended.returncode == 0, ended.stderr
    assert "ignored: roses/flat[1].png: 40×5, the shorter side is under 31 (TooSmall)" in ended.stdout
    assert "ignored: tulips/broken.jpg: not an image that can be read (Corrupt)" in ended.stdout
    assert "2 ignored: 1 Corrupt, 1 TooSmall" in ended.stdout


@pytest.mark.feature("O5")
def test_a_folder_that_would_fail_ends_with_one_and_shows_what_there_is(bloomery: Bloomery, pictures: Pictures) -> None:
    ended = bloomery("check", pictures(roses=25, tulips=3))

    assert ended.returncode == 1
    assert ended.stdout.splitlines()[2].split() == ["tulips", "3", "0"]
    assert ended.stderr.strip() == (
        "error: TooFewImages: class 'tulips' has 3 images; a class needs at least 20 (rules.minImagesPerClass)"
    )


@pytest.mark.feature("O5")
def test_the_rules_of_a_dataset_hold_where_one_is_given(bloomery: Bloomery, pictures: Pictures, tmp_path: Path) -> None:
    (tmp_path / "flowers.yaml").write_text(DATASET, encoding="utf-8")
    folder = pictures(roses=6, tulips=4, size=(20, 12))

    ended = bloomery("check", folder, "--dataset", "flowers.yaml", "-o", "json")

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["ok"] and found["error"] is None and found["images"] == 10
    assert found["classes"] == [
        {"name": "tulips", "train": 2, "validation": 2, "test": 0},
        {"name": "玫瑰", "train": 3, "validation": 3, "test": 0},
    ]


@pytest.mark.feature("O5")
def test_programs_get_the_reason_and_every_ignored_file(bloomery: Bloomery, pictures: Pictures) -> None:
    ended = bloomery("check", pictures(roses=25, tulips=25, size=(30, 30)), "-o", "json")

    assert ended.returncode == 1
    found = json.loads(ended.stdout)
    assert (found["ok"], found["error"]["reason"], found["ignored"]) == (False, "TooFewImages", {"TooSmall": 50})
    assert found["ignoredFiles"][0] == {
        "key": "roses/0.png",
        "reason": "TooSmall",
        "detail": "30×30, the shorter side is under 31",
    }


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Service", "flowers.yaml must hold one Dataset; it holds none."),
        ("kind: [", "flowers.yaml is no YAML: "),
        ("kind: Dataset", "The Dataset in flowers.yaml has no spec."),
        (
            "{kind: Dataset, spec: {rules: {maxBytes: big}}}",
            "rules.maxBytes must be a quantity such as 4Mi",
        ),
        ("{kind: Dataset, spec: {split: {validation: 2}}}", "flowers.yaml is wrong: split.validation: "),
    ],
)
def test_a_wrong_dataset_is_refused_in_a_sentence(
    bloomery: Bloomery, pictures: Pictures, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "flowers.yaml").write_text(text, encoding="utf-8")

    ended = bloomery("check", pictures(roses=1), "--dataset", "flowers.yaml")

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.feature("O5")
def test_a_folder_that_is_not_there_is_named(bloomery: Bloomery) -> None:
    ended = bloomery("check", "nowhere")

    assert (ended.returncode, ended.stderr) == (1, "error: There is no folder or archive nowhere.\n")


@pytest.mark.feature("O5")
def test_neither_pytorch_nor_mlflow_is_needed(bloomery: Bloomery, pictures: Pictures) -> None:
    missing = ("torch", "torchvision", "mlflow", "jinja2", "onnx", "onnxruntime", "pandas", "sklearn", "tensorboard")

    assert bloomery("check", pictures(roses=25, tulips=20), without=missing).returncode == 0


@pytest.mark.feature("O5")
@pytest.mark.parametrize("missing", ["bloomery_trainer", "bloomery_model"])
def test_without_the_trainers_packages_it_says_what_to_install(
    bloomery: Bloomery, pictures: Pictures, missing: str
) -> None:
    ended = bloomery("check", pictures(roses=1), without=(missing,))

    assert ended.returncode == 1
    assert "pip install ./model-format ./trainer-image" in ended.stderr
    assert "Traceback" not in ended.stderr
