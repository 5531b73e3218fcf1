"""The command ``check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from testing.archives import ZipFile, write_zip
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
def test_good_folder_is_shown_by_class_and_split(bloomery: Bloomery, pictures: Pictures) -> None:
    result = bloomery("check", pictures(roses=25, tulips=20))

    assert result.returncode == 0, result.stderr
    header, *rows = (line.split() for line in result.stdout.splitlines()[:3])
    assert header == ["CLASS", "TRAIN", "VALIDATION"]
    assert [(name, int(train) + int(validation)) for name, train, validation in rows] == [("roses", 25), ("tulips", 20)]
    assert "A Dataset of 45 images in 2 classes." in result.stdout


@pytest.mark.feature("O5")
def test_ignored_image_is_named_with_reason(bloomery: Bloomery, pictures: Pictures) -> None:
    folder = pictures(roses=20, tulips=20)
    Image.new("RGB", (40, 5)).save(folder / "roses" / "flat[1].png")
    (folder / "tulips" / "broken.jpg").write_bytes(b"no picture")

    result = bloomery("check", folder)

    assert result.returncode == 0, result.stderr
    assert "ignored: roses/flat[1].png: 40×5, the shorter side is under 31 (TooSmall)" in result.stdout
    assert "ignored: tulips/broken.jpg: not an image that can be read (Corrupt)" in result.stdout
    assert "2 ignored: 1 Corrupt, 1 TooSmall" in result.stdout


@pytest.mark.feature("O5")
def test_check_knows_the_splits_copies_and_names_that_a_preparation_knows(
    bloomery: Bloomery, pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures(roses=25, tulips=25)
    for split, names in {"Train": range(5, 25), "valid": range(5)}.items():
        for name in ("roses", "tulips"):
            target = tmp_path / "all" / "data" / split / name
            target.mkdir(parents=True)
            for number in names:
                (folder / name / f"{number}.png").rename(target / f"{number}.jfif")
    data = tmp_path / "all" / "data"
    (data / "valid" / "roses" / "copy.png").write_bytes((data / "Train" / "tulips" / "7.jfif").read_bytes())
    (data / "@eaDir").mkdir()
    (data / "@eaDir" / "1.jpg").write_bytes(b"x")
    result = bloomery("check", tmp_path / "all")
    (data / "extra.1").mkdir()
    (data / "extra.1" / "1.png").write_bytes((data / "Train" / "roses" / "7.jfif").read_bytes())
    refused = bloomery("check", tmp_path / "all")

    assert result.returncode == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [["roses", "20", "5"], ["tulips", "19", "5"]]
    pair = "'data/Train/tulips/7.jfif' (tulips) and 'data/valid/roses/copy.png' (roses)"
    assert f"until you exclude the wrong ones: {pair}" in result.stdout
    assert refused.returncode == 1
    assert 'rename: {"extra.1": "extra 1"}' in refused.stderr


@pytest.mark.feature("O5")
def test_failing_folder_exits_with_1_and_shows_classes(bloomery: Bloomery, pictures: Pictures) -> None:
    result = bloomery("check", pictures(roses=25, tulips=3))

    assert result.returncode == 1
    assert result.stdout.splitlines()[2].split() == ["tulips", "2", "1"]
    assert result.stderr.strip() == (
        "error: TooFewImages: class 'tulips' has 3 images; a class needs at least 20 (rules.minImagesPerClass)"
    )


@pytest.mark.feature("O5")
def test_dataset_option_applies_its_rules(bloomery: Bloomery, pictures: Pictures, tmp_path: Path) -> None:
    (tmp_path / "flowers.yaml").write_text(DATASET, encoding="utf-8")
    folder = pictures(roses=6, tulips=4, size=(20, 12))

    result = bloomery("check", folder, "--dataset", "flowers.yaml", "-o", "json")

    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] and document["error"] is None and document["images"] == 10
    assert [(entry["name"], entry["train"] + entry["validation"]) for entry in document["classes"]] == [
        ("tulips", 4), ("玫瑰", 6),
    ]  # fmt: skip


@pytest.mark.feature("O5")
@pytest.mark.parametrize("option", ["--encoding", "--dataset"])
def test_encoding_of_an_archive_comes_from_option_or_dataset(
    bloomery: Bloomery, pictures: Pictures, tmp_path: Path, option: str
) -> None:
    folder = pictures(roses=20, tulips=20)
    names = {"roses": "개", "tulips": "고양이"}
    write_zip(
        tmp_path / "pets.zip",
        [
            ZipFile(name=f"{names[path.parent.name]}/{path.name}".encode("cp949"), data=path.read_bytes())
            for path in sorted(folder.rglob("*.*"))
        ],
    )
    source = {"uri": "s3://pets/pets.zip", "encoding": "cp949"}
    (tmp_path / "pets.yaml").write_text(json.dumps({"kind": "Dataset", "spec": {"source": source}}))
    value = {"--encoding": "cp949", "--dataset": "pets.yaml"}[option]

    result = bloomery("check", tmp_path / "pets.zip", option, value, "-o", "json")

    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert [entry["name"] for entry in document["classes"]] == ["개", "고양이"]
    assert not any("encoding" in warning for warning in document["warnings"])


@pytest.mark.feature("O5")
def test_json_output_has_reason_and_ignored_files(bloomery: Bloomery, pictures: Pictures) -> None:
    result = bloomery("check", pictures(roses=25, tulips=25, size=(30, 30)), "-o", "json")

    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert (document["ok"], document["error"]["reason"], document["ignored"]) == (
        False,
        "TooFewImages",
        {"TooSmall": 50},
    )
    assert document["ignoredFiles"][0] == {
        "key": "roses/0.png",
        "reason": "TooSmall",
        "detail": "30×30, the shorter side is under 31",
    }


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Service", "flowers.yaml must contain one Dataset; it contains none."),
        ("kind: [", "flowers.yaml is not valid YAML: "),
        ("kind: Dataset", "The Dataset in flowers.yaml has no spec."),
        (
            "{kind: Dataset, spec: {rules: {maxBytes: big}}}",
            "rules.maxBytes must be a quantity such as 4Mi",
        ),
        ("{kind: Dataset, spec: {split: {validation: 2}}}", "flowers.yaml is wrong: split.validation: "),
    ],
)
def test_invalid_dataset_is_rejected_with_message(
    bloomery: Bloomery, pictures: Pictures, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "flowers.yaml").write_text(text, encoding="utf-8")

    result = bloomery("check", pictures(roses=1), "--dataset", "flowers.yaml")

    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.feature("O5")
def test_missing_folder_is_named(bloomery: Bloomery) -> None:
    result = bloomery("check", "nowhere")

    assert (result.returncode, result.stderr) == (1, "error: There is no folder or archive nowhere.\n")


@pytest.mark.feature("O5")
def test_check_needs_neither_pytorch_nor_mlflow(bloomery: Bloomery, pictures: Pictures) -> None:
    missing = ("torch", "torchvision", "mlflow", "jinja2", "onnx", "onnxruntime", "pandas", "sklearn", "tensorboard")

    assert bloomery("check", pictures(roses=25, tulips=20), without=missing).returncode == 0


@pytest.mark.feature("O5")
@pytest.mark.parametrize("missing", ["bloomery_trainer", "bloomery_model"])
def test_missing_trainer_packages_are_named(bloomery: Bloomery, pictures: Pictures, missing: str) -> None:
    result = bloomery("check", pictures(roses=1), without=(missing,))

    assert result.returncode == 1
    assert "pip install ./model-format ./trainer-image" in result.stderr
    assert "Traceback" not in result.stderr
