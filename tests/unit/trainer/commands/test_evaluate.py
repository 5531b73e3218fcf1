"""Evaluation of a model in the form in which it is served, from any origin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from bloomery_model.folder import file_digest, model_digest
from bloomery_model.references import REFERENCES, References
from bloomery_model.statistics import parse_statistics
from bloomery_trainer import model_folder
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.models import quantize
from bloomery_trainer.models.classifier import load_classifier
from bloomery_trainer.storage import Folder

Train = Callable[..., Any]

pytestmark = pytest.mark.feature("T18")


@pytest.fixture(scope="module")
def base(train: Train, digits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two of the three classes, in its output folder."""
    folder = tmp_path_factory.mktemp("base")
    two = {**digits, "classes": ["eins", "null"]}
    ended = train({"maxSteps": 4}, datasets=[two], output={"uri": f"file://{folder}"})
    assert ended.code == 0, ended.message
    return folder


@pytest.fixture(scope="module")
def int8(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a training leaves it that was asked for int8: only model.onnx is another."""
    folder = tmp_path_factory.mktemp("int8")
    for name in model_folder.FILES:
        (folder / name).write_bytes((base / "model" / name).read_bytes())
    (folder / "model.onnx").unlink()
    noise = np.random.default_rng(0).normal(size=(4, 1, 3, 32, 32)).astype(np.float32)
    # Calibrated on noise, so that its answers differ plainly.
    quantize.write_int8(base / "model" / "model.onnx", folder / "model.onnx", [0.1 * image for image in noise])
    about = json.loads((base / "model" / "metadata.json").read_text(encoding="utf-8"))
    del about["files"]
    (folder / "metadata.json").write_bytes(model_folder.metadata(folder, about))
    return folder


@pytest.fixture
def evaluate(train: Train, digits: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    def run(uri: str, *classes: str, output: str = "output", **initial: Any) -> Any:
        return train(
            evaluateOnly=True,
            datasets=[{**digits, "classes": list(classes or ("eins", "null"))}],
            initialModel={"uri": uri, **initial},
            output={"uri": f"file://{tmp_path}/{output}"},
        )

    return run


def foreign(folder: Path, *, labels: str, softmax: bool = False) -> Path:
    """An ONNX model of another tool, for one image of 40 pixels at a time: the brighter, the more of its last class."""
    folder.mkdir()
    classes = labels.count("\n")
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [3, classes], np.tile(np.linspace(-3, 3, classes), 3))
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    output = helper.make_tensor_value_info("scores" if softmax else "logits", TensorProto.FLOAT, [1, classes])
    image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 40, 40])
    graph = helper.make_graph(nodes[: 4 if softmax else 3], "brightness", [image], [output], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "brightness.onnx")
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    return folder


def report(tmp_path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tmp_path / "output" / "evaluation.json").read_text(encoding="utf-8"))
    return document


def test_an_int8_model_is_evaluated_in_int8(evaluate: Train, base: Path, int8: Path, tmp_path: Path) -> None:
    message = evaluate(f"file://{int8}", origin="flowers/3").message

    trained = json.loads((base / "result.json").read_text(encoding="utf-8"))["metrics"]
    # state.pt is the same, model.onnx is not.
    assert message["metrics"]["loss"] != pytest.approx(trained["loss"], abs=1e-4)
    assert message["model"]["digest"] == model_digest(model_folder.file_digests(int8))
    assert (message["dataType"], message["evaluatedOn"]) == ("int8", "validation")
    assert message["notes"][0] == "flowers/3 was evaluated as it is, in int8; nothing was trained."
    assert report(tmp_path)["dataType"] == "int8"
    assert "resnet18 · int8" in (tmp_path / "output" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["", "/model", "/checkpoints", "/checkpoints/step-000000004.pt"])
def test_a_trained_model_is_evaluated_from_any_place(evaluate: Train, base: Path, what: str) -> None:
    message = evaluate(f"file://{base}{what}").message

    trained = json.loads((base / "result.json").read_text(encoding="utf-8"))["metrics"]
    if "checkpoints" in what:
        # Only the exported file has the temperature.
        del trained["loss"], message["metrics"]["loss"]
    assert message["metrics"] == pytest.approx(trained, abs=1e-4)


def test_foreign_onnx_model_is_evaluated_with_and_without_softmax(evaluate: Train, tmp_path: Path) -> None:
    plain = foreign(tmp_path / "plain", labels="null\neins\n")
    softmax = foreign(tmp_path / "softmax", labels="null\neins\n", softmax=True)
    ended = evaluate(f"file://{plain}")
    same = evaluate(f"file://{softmax}", output="same")

    assert (ended.code, same.code) == (0, 0), (ended.message, same.message)
    assert same.message["metrics"] == pytest.approx(ended.message["metrics"], abs=1e-4)
    assert same.message["model"]["digest"] != ended.message["model"]["digest"]
    assert report(tmp_path)["preset"] == "ONNX"


def test_images_of_one_class_are_evaluated(evaluate: Train, base: Path, tmp_path: Path) -> None:
    ended = evaluate(f"file://{base}/model", "eins")

    assert ended.code == 0, ended.message
    document = report(tmp_path)
    assert document["images"] > 0
    assert {"auc"}.isdisjoint(document["metrics"])
    (warning,) = (words for words in document["verdict"]["warnings"] if "of one class" in words)
    assert "All validation images are of one class, “eins”" in warning
    assert document["verdict"]["level"] != "unusable"


def test_another_digest_than_the_one_that_was_meant_is_refused(evaluate: Train, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "foreign", labels="null\neins\n")
    ended = evaluate(f"file://{folder}", digest="sha256:" + "0" * 64)

    assert (ended.code, ended.reason) == (2, "DigestMismatch")


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("brightness.onnx", "UnsupportedModel", "evaluateOnly takes its folder, with labels.txt"),
        ("saved_model.pb", "UnsupportedModel", "is of another framework"),
    ],
)
def test_a_file_that_names_no_classes_is_refused_in_words(
    evaluate: Train, tmp_path: Path, name: str, reason: str, words: str
) -> None:
    folder = foreign(tmp_path / "foreign", labels="null\neins\n")
    ended = evaluate(f"file://{folder}/{name}")

    assert (ended.code, ended.reason) == (2, reason)
    assert words in ended.sentence


def test_plain_weights_are_refused_as_nothing_names_their_classes(evaluate: Train, base: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.pt").write_bytes((base / "model" / "state.pt").read_bytes())
    ended = evaluate(f"file://{tmp_path}/plain.pt")

    assert (ended.code, ended.reason) == (2, "InvalidConfig")
    assert "says nothing of its classes" in ended.sentence


def test_an_onnx_folder_without_class_names_is_refused_in_words(evaluate: Train, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "foreign", labels="null\neins\n")
    (folder / "labels.txt").unlink()
    ended = evaluate(f"file://{folder}")

    assert (ended.code, ended.reason) == (3, "NoLabels")


@pytest.fixture
def older(base: Path, tmp_path: Path) -> Path:
    """The model of a version that stored neither thresholds nor a reference, nor references."""
    folder = tmp_path / "older"
    shutil.copytree(base / "model", folder)
    metadata = read_metadata(folder)
    del metadata["thresholds"], metadata["reference"], metadata["references"]
    (folder / REFERENCES).unlink()
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def read_metadata(folder: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    return metadata


@pytest.mark.feature("S17")
@pytest.mark.feature("S18")
def test_an_older_model_gets_its_thresholds_and_reference(
    evaluate: Train, base: Path, older: Path, tmp_path: Path
) -> None:
    before = read_metadata(older)
    ended = evaluate(f"file://{older}")
    assert ended.code == 0, ended.message
    after, trained = read_metadata(older), read_metadata(base / "model")
    assert before.items() <= after.items()
    assert after["thresholds"] == trained["thresholds"]
    # The energies of the two differ by rounding.
    assert after["reference"].keys() == trained["reference"].keys()
    assert all(after["reference"][name] == trained["reference"][name] for name in ("predictions", "confidence"))
    assert any("thresholds and its reference" in note for note in ended.message["notes"])
    assert sum(after["reference"]["predictions"]) == report(tmp_path)["images"]


@pytest.mark.feature("S24")
def test_an_older_model_gets_its_references_and_keeps_its_digest(evaluate: Train, base: Path, older: Path) -> None:
    assert evaluate(f"file://{older}").code == 0
    after, trained = read_metadata(older), read_metadata(base / "model")
    assert after["references"]["digest"] == file_digest(older / REFERENCES)
    assert (after["files"], after["references"]["images"]) == (trained["files"], trained["references"]["images"])
    own, other = (References.read(folder / REFERENCES, side=32, classes=2) for folder in (older, base / "model"))
    assert (own.images == other.images).all()
    assert own.compare(other.probabilities).largest_difference < 1e-4


@pytest.mark.feature("S24")
def test_references_that_are_there_stay(evaluate: Train, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "model", tmp_path / "model")
    before = file_digest(tmp_path / "model" / REFERENCES)
    assert evaluate(f"file://{tmp_path}/model", "eins").code == 0
    assert file_digest(tmp_path / "model" / REFERENCES) == before


@pytest.mark.feature("S24")
def test_an_int8_model_gets_its_own_answers(evaluate: Train, int8: Path, tmp_path: Path) -> None:
    shutil.copytree(int8, tmp_path / "model")
    metadata = read_metadata(tmp_path / "model")
    metadata.pop("references", None)
    (tmp_path / "model" / "metadata.json").write_text(json.dumps(metadata))
    assert evaluate(f"file://{tmp_path}/model").code == 0
    references = References.read(tmp_path / "model" / REFERENCES, side=32, classes=2)
    network = load_classifier(tmp_path / "model")
    tensors = np.stack([network.preprocess.normalise(image) for image in references.images])
    answers = network.network(torch.from_numpy(tensors)).softmax(dim=1).numpy()
    assert references.compare(answers).largest_difference < 1e-4


@pytest.mark.feature("S17")
def test_thresholds_that_are_there_stay(evaluate: Train, older: Path) -> None:
    """Services judge by them: an evaluation on other images must not change their answers."""
    thresholds = {"precision": {"0.95": [0.5, 0.5]}}
    (older / "metadata.json").write_text(json.dumps({**read_metadata(older), "thresholds": thresholds}))
    assert evaluate(f"file://{older}").code == 0
    assert read_metadata(older)["thresholds"] == thresholds
    assert "reference" in read_metadata(older)


@pytest.mark.feature("S17")
@pytest.mark.feature("S18")
def test_a_foreign_model_gets_a_file_of_statistics(evaluate: Train, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "foreign", labels="eins\nnull\n")
    files = set(folder.iterdir())
    ended = evaluate(f"file://{folder}")
    assert ended.code == 0, ended.message
    assert {path.name for path in set(folder.iterdir()) - files} == {"statistics.json", REFERENCES}
    document = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    assert document["references"]["digest"] == file_digest(folder / REFERENCES)
    assert document["digest"] == ended.message["model"]["digest"]
    assert parse_statistics(document, classes=2).thresholds_for(0.8) is not None
    assert parse_statistics(document, classes=2).reference is not None


@pytest.mark.feature("S17")
def test_a_model_folder_that_cannot_be_written_is_evaluated_all_the_same(
    evaluate: Train, older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BadConfig("AccessDenied", "the keys of s3://models may not write")

    monkeypatch.setattr(Folder, "write", refuse_only("metadata.json", Folder.write, refuse))
    ended = evaluate(f"file://{older}")
    assert ended.code == 0, ended.message
    assert any("may not write" in note for note in ended.message["notes"])


def refuse_only(name: str, write: Callable[..., None], refuse: Callable[..., None]) -> Callable[..., None]:
    """Refuse to write one file."""
    return lambda folder, path, data: (refuse if path == name else write)(folder, path, data)
