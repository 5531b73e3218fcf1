"""Fine-tuning from earlier weights: their origins, their classes, and refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Train = Callable[..., Any]

HEAD = {"fc.weight", "fc.bias"}


@pytest.fixture(scope="module")
def base(train: Train, digits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two of the three classes, in its output folder."""
    folder = tmp_path_factory.mktemp("base")
    classes = ["eins", "null"]
    ended = train({"maxSteps": 4}, datasets=[{**digits, "classes": classes}], output={"uri": f"file://{folder}"})
    assert ended.code == 0, ended.message
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "model" / "state.pt", weights_only=True)
    return state


@pytest.mark.feature("T3")
@pytest.mark.parametrize("what", ["/model", "", "/checkpoints", "/checkpoints/step-000000004.pt"])
def test_training_starts_from_each_kind_of_folder(train: Train, base: Path, tmp_path: Path, what: str) -> None:
    ended = train(
        {"learningRate": 1e-9, "maxSteps": 1},
        initialModel={"uri": f"file://{base}{what}", "origin": "flowers/3"},
        output={"uri": f"file://{tmp_path}"},
    )

    assert ended.code == 0, ended.message
    before, after = weights(base), weights(tmp_path)
    assert torch.allclose(before["conv1.weight"], after["conv1.weight"], atol=1e-6)
    assert "starts from flowers/3" in ended.message["notes"][0]


@pytest.mark.feature("T3")
def test_new_head_keeps_the_rows_of_known_classes(train: Train, base: Path, tmp_path: Path) -> None:
    ended = train(
        {"learningRate": 1e-9, "maxSteps": 1},
        initialModel={"uri": f"file://{base}/model"},
        output={"uri": f"file://{tmp_path}"},
    )

    before, after = weights(base)["fc.weight"], weights(tmp_path)["fc.weight"]
    labels = (tmp_path / "model" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == ["eins", "null", "零"]
    assert torch.allclose(after[:2], before, atol=1e-6)
    assert "the head is new for 1 of 3 classes, 2 had a class of the same name" in ended.message["notes"][0]


@pytest.mark.feature("T23")
def test_progress_counts_the_steps_after_a_fitted_head(train: Train, base: Path, tmp_path: Path) -> None:
    body = {name: value for name, value in weights(base).items() if name not in HEAD}
    torch.save(body, tmp_path / "body.pt")
    ended = train({"maxSteps": 3}, initialModel={"uri": f"file://{tmp_path}/body.pt"})

    assert ended.code == 0, ended.message
    assert any("Fine-tuning started from there" in note for note in ended.message["notes"])
    progress = ended.message["progress"]
    assert (progress["step"], progress["totalSteps"]) == (3, 3)


@pytest.mark.feature("T2")
def test_the_head_alone_is_trained_where_that_is_asked_for(train: Train, base: Path, tmp_path: Path) -> None:
    ended = train(
        {"trainable": "Head", "learningRate": 0.1, "maxSteps": 3},
        initialModel={"uri": f"file://{base}/model"},
        output={"uri": f"file://{tmp_path}"},
    )

    assert ended.code == 0, ended.message
    before, after = weights(base), weights(tmp_path)
    # Not even the statistics of the batch norms move.
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - HEAD)
    assert not torch.equal(before["fc.weight"], after["fc.weight"][:2])


HEAD_ALONE = {"trainable": "Head", "maxSteps": None, "augmentation": None}


@pytest.mark.feature("T23")
def test_head_is_fitted_on_the_images_that_the_time_is_enough_for(train: Train, base: Path, tmp_path: Path) -> None:
    ended = train(
        HEAD_ALONE,
        initialModel={"uri": f"file://{base}/model"},
        maxTrainingSeconds=0.001,
        output={"uri": f"file://{tmp_path}"},
    )

    assert ended.code == 0, ended.message
    assert ended.message["reason"] == "TrainingTimeReached"
    assert "maxTrainingTime was over after 4 of 96 training images; a longer one" in " ".join(ended.message["notes"])
    # Also the class that the initial model does not know was among the four.
    assert not torch.equal(weights(tmp_path)["fc.weight"][2], torch.zeros(512))


@pytest.mark.feature("T23")
def test_fitting_a_head_counts_as_training_time(train: Train, base: Path, tmp_path: Path) -> None:
    body = {name: value for name, value in weights(base).items() if name not in HEAD}
    torch.save(body, tmp_path / "body.pt")
    ended = train({"maxSteps": 3}, initialModel={"uri": f"file://{tmp_path}/body.pt"}, maxTrainingSeconds=0.001)

    assert ended.code == 0, ended.message
    assert ended.message["reason"] == "TrainingTimeReached"
    assert any("on features of 4 images" in note for note in ended.message["notes"])
    assert ended.message["progress"]["step"] == 0


def test_weights_that_do_not_exist_are_refused_with_those_that_do(train: Train) -> None:
    ended = train(initialModel={"weights": "IMAGENET22K"})

    assert (ended.code, ended.reason) == (2, "WeightsNotFound")
    assert "torchvision has no weights 'IMAGENET22K' for resnet18; it has IMAGENET1K_V1, DEFAULT" in ended.sentence


def test_weights_by_name_that_cannot_be_downloaded_are_retried(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    ended = train(initialModel={"weights": "DEFAULT"})

    assert (ended.code, ended.reason) == (1, "WeightsUnreachable")
    assert "kubectl bloomery weights push resnet18-f37072fd.pth --preset resnet18" in ended.sentence


@pytest.mark.feature("T3")
@pytest.mark.parametrize("name", ["model.ckpt-6000", "inception_v1.ckpt", "saved_model.pb"])
def test_tensorflow_checkpoint_is_refused_with_alternatives(train: Train, name: str) -> None:
    ended = train(initialModel={"uri": f"s3://models/{name}"})

    assert (ended.code, ended.reason) == (2, "UnsupportedModel")
    assert "use a model folder or a checkpoint of a TrainingJob" in ended.sentence


def test_model_of_another_network_is_refused_with_its_preset(train: Train, base: Path) -> None:
    ended = train(preset="resnet34", initialModel={"uri": f"file://{base}/model", "origin": "flowers/3"})

    assert (ended.code, ended.reason) == (2, "PresetMismatch")
    assert "(flowers/3) is a resnet18, the preset is resnet34: set preset to resnet18" in ended.sentence


def test_a_damaged_model_is_refused(train: Train, base: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for path in (base / "model").iterdir():
        data = path.read_bytes()
        (tmp_path / "model" / path.name).write_bytes(data[:-1] + b"!" if path.name == "state.pt" else data)
    ended = train(initialModel={"uri": f"file://{tmp_path}/model"})

    assert (ended.code, ended.reason) == (3, "ModelDamaged")
    assert "state.pt at file://" in ended.sentence


def test_another_model_than_the_one_that_was_meant_is_refused(train: Train, base: Path) -> None:
    ended = train(initialModel={"uri": f"file://{base}/model", "digest": "sha256:" + "0" * 64})

    assert (ended.code, ended.reason) == (2, "DigestMismatch")


def test_a_file_that_would_execute_code_is_not_loaded(train: Train, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "exploded").write_text, ("boom",))

    torch.save({"model": Bomb()}, tmp_path / "step-000000001.pt")
    ended = train(initialModel={"uri": f"file://{tmp_path}/step-000000001.pt"})

    assert (ended.code, ended.reason) == (2, "InvalidCheckpoint")
    assert not (tmp_path / "exploded").exists()


def test_folder_without_a_model_is_refused(train: Train, tmp_path: Path) -> None:
    ended = train(initialModel={"uri": f"file://{tmp_path}"})

    assert (ended.code, ended.reason) == (2, "InitialModelNotFound")
    assert "a model folder has metadata.json, state.pt and labels.txt" in ended.sentence


@pytest.mark.feature("T18")
def test_a_model_is_evaluated_on_other_images_without_training(
    train: Train, base: Path, tmp_path: Path, digits: dict[str, Any]
) -> None:
    ended = train(
        evaluateOnly=True,
        datasets=[{**digits, "classes": ["eins", "null"]}],
        initialModel={"uri": f"file://{base}/model"},
        output={"uri": f"file://{tmp_path}"},
    )

    assert (ended.code, ended.message["reason"]) == (0, "Evaluated")
    same = json.loads((base / "result.json").read_text(encoding="utf-8"))["metrics"]
    assert ended.message["metrics"] == pytest.approx(same)
    assert ended.message["model"]["digest"] == metadata_digest(base / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.feature("T18")
def test_classes_unknown_to_the_model_cannot_be_evaluated(train: Train, base: Path) -> None:
    ended = train(evaluateOnly=True, initialModel={"uri": f"file://{base}/model"})

    assert (ended.code, ended.reason) == (2, "ClassNotFound")
    assert "the model has no class '零'; it has 'eins', 'null'" in ended.sentence


@pytest.mark.parametrize(("fields", "words"), [
    ({"evaluateOnly": True}, "evaluateOnly needs an initialModel"),
    ({"hyperparameters": {"trainable": "Head"}}, "hyperparameters.trainable Head needs trained weights"),
])  # fmt: skip
def test_what_needs_an_initial_model_says_so(train: Train, fields: dict[str, Any], words: str) -> None:
    ended = train(fields.get("hyperparameters"), **{k: v for k, v in fields.items() if k != "hyperparameters"})

    assert (ended.code, ended.reason) == (2, "InvalidConfig")
    assert words in ended.sentence


def metadata_digest(folder: Path) -> str:
    """The model's digest as the serving side computes it."""
    files = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["files"]
    canonical = json.dumps(files, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
