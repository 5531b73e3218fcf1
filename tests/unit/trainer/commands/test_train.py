"""The ``train`` command in a real small run: a model directory, an evaluation, and a result."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image

Run = Callable[[dict[str, Any]], Any]

CLASSES = ("null", "eins", "零")
MODEL_FILES = {"model.onnx", "labels.txt", "preprocess.json", "state.pt"}


@pytest.fixture(scope="session")
def trained(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run that learns something, and its output folder."""
    folder = tmp_path_factory.mktemp("trained")
    short = {"maxSteps": None, "epochs": 5, "learningRate": 0.02}
    return train(short, output={"uri": f"file://{folder}"}), folder


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def served_input(data: bytes, preprocess: dict[str, Any]) -> NDArray[np.float32]:
    """Preprocess as the contract of preprocess.json demands, written a second time."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = preprocess["resize"] / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - preprocess["crop"]) // 2, (image.height - preprocess["crop"]) // 2
    image = image.crop((left, top, left + preprocess["crop"], top + preprocess["crop"]))
    pixels = np.asarray(image, dtype=np.float32) / 255
    scaled = (pixels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)


def test_training_ends_well_and_says_so(trained: tuple[Any, Path]) -> None:
    ended, folder = trained

    assert ended.code == 0
    assert ended.message["reason"] == "Trained"
    assert ended.message["mlflow"] == {"experimentId": None, "runId": None}
    assert ended.message["model"]["uri"] == f"file://{folder}/model"
    assert set(ended.message["metrics"]) == {
        "loss", "top1", "precision", "recall", "balanced", "f1", "kappa", "auc",
    }  # fmt: skip
    assert read_json(folder / "result.json") == ended.message


def test_the_loss_falls(trained: tuple[Any, Path]) -> None:
    log = (trained[1] / "train.log").read_text(encoding="utf-8")
    losses = [float(loss) for loss in re.findall(r"training loss ([\d.]+)", log)]

    assert len(losses) == 5
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.feature("T9")
@pytest.mark.feature("T17")
def test_the_output_folder_holds_the_model_its_report_and_its_log(trained: tuple[Any, Path]) -> None:
    files = {str(path.relative_to(trained[1])) for path in trained[1].rglob("*") if path.is_file()}
    (events,) = (file for file in files if file.startswith("tensorboard/"))

    assert files == {
        "evaluation.json", "predictions.csv", "report.html", "suspects.jsonl", "train.log", "result.json", events,
        "attempts.json", "checkpoints/step-000000030.pt", "checkpoints/step-000000030.pt.sha256",
        "model/metadata.json", "model/references.npz", *(f"model/{name}" for name in MODEL_FILES),
    }  # fmt: skip


def test_labels_are_the_classes_in_index_order_in_any_script(trained: tuple[Any, Path]) -> None:
    assert (trained[1] / "model" / "labels.txt").read_text(encoding="utf-8") == "eins\nnull\n零\n"


def test_the_model_directory_describes_itself_and_proves_its_files(
    trained: tuple[Any, Path], digits: dict[str, str]
) -> None:
    ended, folder = trained
    metadata = read_json(folder / "model" / "metadata.json")

    for name in MODEL_FILES:
        sha256 = hashlib.sha256((folder / "model" / name).read_bytes()).hexdigest()
        assert metadata["files"][name] == f"sha256:{sha256}"
    canonical = json.dumps(metadata["files"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert ended.message["model"]["digest"] == f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
    assert metadata["format"] == 1
    assert metadata["preset"] == "resnet18"
    assert metadata["imageSize"] == 32
    assert metadata["trainingJob"] == {"namespace": "demo", "name": "small", "uid": "1234"}
    assert metadata["datasets"] == [{"name": "digits", "version": digits["version"]}]
    assert metadata["model"] == {"name": "digits", "version": None}


def test_onnx_model_equals_trained_weights_for_any_batch(trained: tuple[Any, Path]) -> None:
    folder = trained[1] / "model"
    network = torchvision.models.get_model("resnet18", num_classes=3)
    network.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    network.eval()
    temperature = read_json(folder / "metadata.json")["calibration"]["temperature"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = network(images).numpy() / temperature
            np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_serving_by_the_model_directory_alone_gives_the_evaluations_answers(
    trained: tuple[Any, Path], digits: dict[str, str]
) -> None:
    folder = trained[1] / "model"
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    preprocess = read_json(folder / "preprocess.json")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    raw = Path(digits["uri"].removeprefix("file://")).parents[1] / "raw"
    with (trained[1] / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 24
    for row in rows:
        image = served_input((raw / row["image"]).read_bytes(), preprocess)
        (logits,) = session.run(None, {"images": image})
        scores = np.exp(logits[0]) / np.exp(logits[0]).sum()
        assert labels[int(scores.argmax())] == row["predicted"]
        assert float(scores.max()) == pytest.approx(float(row["score"]), abs=2e-4)
        assert row["label"] == row["image"].split("/")[0]


def test_the_evaluation_agrees_with_the_predictions(trained: tuple[Any, Path]) -> None:
    ended, folder = trained
    evaluation = read_json(folder / "evaluation.json")
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["predicted"] for row in rows)
    names = [entry["name"] for entry in evaluation["classes"]]
    matrix = [[0] * 3 for _ in names]
    for row in rows:
        matrix[names.index(row["label"])][names.index(row["predicted"])] += 1

    assert ended.message["metrics"]["top1"] == pytest.approx(right / len(rows), abs=1e-6)
    assert evaluation["images"] == len(rows)
    assert evaluation["confusionMatrix"] == matrix
    assert [entry["images"] for entry in evaluation["classes"]] == [8, 8, 8]
    low, high = evaluation["interval95"]["top1"]
    assert low < right / len(rows) <= high


def test_a_pod_that_starts_again_after_the_end_repeats_the_result(
    trained: tuple[Any, Path], train: Callable[..., Any]
) -> None:
    ended, folder = trained
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    gone = {"name": "digits", "version": "0", "uri": "file:///nowhere"}
    again = train({"epochs": 9, "maxSteps": None}, datasets=[gone], output={"uri": f"file://{folder}"})

    assert again == ended
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


def test_a_pod_that_died_midway_leaves_nothing_that_hinders_the_next(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"half")
    ended = train(output={"uri": f"file://{tmp_path}"})

    assert ended.code == 0
    metadata = read_json(tmp_path / "model" / "metadata.json")
    sha256 = hashlib.sha256((tmp_path / "model" / "model.onnx").read_bytes()).hexdigest()
    assert metadata["files"]["model.onnx"] == f"sha256:{sha256}"


def test_the_same_seed_gives_the_same_model(train: Callable[..., Any]) -> None:
    augmented = {"augmentation": "TrivialAugment", "horizontalFlip": True}
    digests = {train({**augmented, "seed": 5}).message["model"]["digest"] for _ in range(2)}

    assert len(digests) == 1


def test_training_without_mlflow_reports_an_unregistered_model(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("BLOOMERY_MLFLOW_WAIT_SECONDS", "0")
    ended = train({"augmentation": "Light"}, output={"uri": f"file://{tmp_path}"})

    assert ended.code == 0
    assert ended.message["model"]["version"] is None
    assert "MLflow did not take the model" in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_top5_of_three_classes_is_refused(train: Callable[..., Any]) -> None:
    ended = train(metric="top5")

    assert (ended.code, ended.reason) == (2, "InvalidConfig")
    assert ended.sentence.startswith("metric top5 says nothing about 3 classes")


def test_a_learning_rate_that_explodes_is_named_as_the_cause(train: Callable[..., Any], tmp_path: Path) -> None:
    ended = train({"learningRate": 1e30, "warmupEpochs": 0, "maxSteps": 4}, output={"uri": f"file://{tmp_path}"})

    assert (ended.code, ended.reason) == (2, "Diverged")
    assert "lower hyperparameters.learningRate" in ended.sentence
    assert ended.sentence in (tmp_path / "train.log").read_text(encoding="utf-8")


def test_divergence_with_one_step_an_epoch_keeps_the_best_model(train: Callable[..., Any], tmp_path: Path) -> None:
    """Train with a rate of 10 and a batch of all images: the evaluations before the divergence count."""
    changes = {"learningRate": 10, "optimizer": "adamw", "warmupEpochs": 0, "batchSize": 256, "epochs": 12}
    ended = train({**changes, "maxSteps": None}, output={"uri": f"file://{tmp_path}"})

    assert (ended.code, ended.message["reason"]) == (0, "Diverged")
    assert (tmp_path / "model" / "model.onnx").exists()


def test_a_dataset_that_is_not_there_is_bad_configuration(train: Callable[..., Any], tmp_path: Path) -> None:
    ended = train(datasets=[{"name": "digits", "version": "0", "uri": f"file://{tmp_path}"}])

    assert (ended.code, ended.reason) == (2, "DatasetNotFound")
    assert ended.sentence == f"there is no prepared dataset (manifest.json) under file://{tmp_path}"


def test_a_damaged_shard_is_not_trained_on(train: Callable[..., Any], digits: dict[str, str], tmp_path: Path) -> None:
    for path in Path(digits["uri"].removeprefix("file://")).iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[:2000] + b"!" + data[2001:] if path.suffix == ".tar" else data)
    ended = train(datasets=[{**digits, "uri": f"file://{tmp_path}"}])

    assert (ended.code, ended.reason) == (1, "ShardDamaged")
