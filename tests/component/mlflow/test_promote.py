"""Promotion of a new version by a real registry and by models that really answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bloomery_trainer import model_folder
from bloomery_trainer.config import TrainConfig
from bloomery_trainer.data.dataset import LocalDataset, fetch
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.publish.run_record import open_record
from bloomery_trainer.recipe import resolve
from bloomery_trainer.storage import S3Access, open_folder
from testing.servers import MlflowServer
from tests.component.mlflow.conftest import Documents, Ended, config_of, made_model

SHADES = ("dunkel", "mittel", "hell")
"""Classes of the made model: the brighter an image, the later the class."""

pytestmark = pytest.mark.feature("T15")


@pytest.fixture(scope="session")
def shades(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Ended]) -> Callable[..., dict[str, Any]]:
    """Prepares a dataset of dark and bright images; its classes may have other names than their brightness."""

    def prepare(name: str, brightness: dict[str, int]) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("shades")
        for label, value in brightness.items():
            for split, numbers in {"train": range(20), "validation": range(20, 25)}.items():
                (folder / "raw" / split / label).mkdir(parents=True)
                for number in numbers:
                    pixels = np.full((40, 40, 3), value + number, np.uint8)
                    Image.fromarray(pixels).save(folder / "raw" / split / label / f"{number}.png")
        ended = command({
            "kind": "prepare",
            "name": name,
            "source": {"uri": f"file://{folder}/raw"},
            "output": {"uri": f"file://{folder}/store"},
        })  # fmt: skip
        assert ended.code == 0, ended.message
        return {"name": name, "version": ended.message["version"], "uri": ended.message["uri"]}

    return prepare


@pytest.fixture(scope="session")
def bright_and_dark(shades: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return shades("shades", {"dunkel": 20, "hell": 230})


class Trainings:
    """Runs that end with a model of a given quality, one version after the other of one registered model."""

    def __init__(self, document: Documents, folder: Path, uri: str) -> None:
        self._document = document
        self._folder = folder
        self._uri = uri
        self._number = itertools.count(1)

    def __call__(
        self,
        top1: float,
        promote: dict[str, Any],
        *,
        dataset: dict[str, Any],
        classes: tuple[str, ...] = SHADES,
        without_files: bool = False,
    ) -> tuple[str, dict[str, Any]]:
        number = next(self._number)
        model_name = self._folder.name.replace("_", "-")
        config = config_of(self._document(
            datasets=[dataset],
            mlflow={"experiment": f"demo/{model_name}", "registeredModel": model_name, "promote": promote},
        ))  # fmt: skip
        scratch = self._folder / f"scratch-{number}"
        scratch.mkdir()
        output = open_folder(config.output.uri, S3Access.from_environment({}), create=True)
        environment = {"MLFLOW_TRACKING_URI": self._uri, "BLOOMERY_MLFLOW_WAIT_SECONDS": "30"}
        recipe = resolve(config.hyperparameters, PRESETS[config.preset], images=100, start="scratch")
        record = open_record(config, recipe, environment, output=output, scratch=scratch)
        model = replace(made_model(scratch / "made", classes=classes), metrics={"top1": top1, "loss": 1.0})
        if not without_files:
            for name in model_folder.FILES:
                output.upload(model.folder / name, f"model/{name}")
            output.write("model/metadata.json", model_folder.metadata(model.folder, {}))
        version = record.register(model)
        assert version is not None
        promoted = record.promote(version, model, lambda: images(config, scratch / "images"))
        record.close("FINISHED")
        assert promoted is not None
        return version, promoted


def images(config: TrainConfig, folder: Path) -> LocalDataset:
    folder.mkdir()
    access = S3Access.from_environment({})
    return fetch(config.datasets, lambda uri: open_folder(uri, access), folder, splits=("validation", "test"))


@pytest.fixture
def train(mlflow: MlflowServer, document: Documents, tmp_path: Path) -> Trainings:
    return Trainings(document, tmp_path, mlflow.uri)


@pytest.fixture
def champion(mlflow: MlflowServer, tmp_path: Path) -> Callable[[], str]:
    """The version that the alias points at."""
    client = mlflow.client()
    return lambda: str(client.get_model_version_by_alias(tmp_path.name.replace("_", "-"), "champion").version)


def test_the_first_model_becomes_champion(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any]
) -> None:
    version, promoted = train(0.5, {"alias": "champion", "betterThanCurrent": True}, dataset=bright_and_dark)

    assert champion() == version
    assert promoted == {
        "alias": "champion", "moved": True, "message": "champion is version 1 now; there was none before",
    }  # fmt: skip


def test_a_model_below_the_limit_is_registered_but_not_promoted(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any]
) -> None:
    promotion = {"alias": "champion", "atLeast": 0.9}
    train(0.95, promotion, dataset=bright_and_dark)
    version, promoted = train(0.8, promotion, dataset=bright_and_dark)

    assert version == "2"
    assert champion() == "1"
    assert promoted["moved"] is False
    assert promoted["message"] == ("champion stays where it is: top1 of version 2 is 0.8000, at least 0.9 is asked for")


def test_without_a_condition_the_newest_is_champion(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any]
) -> None:
    train(0.9, {"alias": "champion"}, dataset=bright_and_dark)
    train(0.1, {"alias": "champion"}, dataset=bright_and_dark)

    assert champion() == "2"


@pytest.mark.parametrize(("top1", "moves"), [(0.91, True), (0.9, False), (0.89, False)])
def test_on_the_same_images_the_recorded_figures_are_compared(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any], top1: float, moves: bool
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True}
    # Its files are gone: only what is recorded can be compared.
    train(0.9, promotion, dataset=bright_and_dark, without_files=True)
    version, promoted = train(top1, promotion, dataset=bright_and_dark)

    assert promoted["moved"] is moves
    assert champion() == (version if moves else "1")


HALF = ("hell", "mittel")
"""Classes of a model that takes every image for bright: of dark and bright ones it gets half right."""


@pytest.mark.parametrize(("classes", "moves"), [(("neu", "hell"), True), (("hell", "neu"), False)])
def test_the_champion_of_other_images_is_evaluated_on_the_jobs_images(
    train: Trainings,
    champion: Callable[[], str],
    shades: Callable[..., dict[str, Any]],
    bright_and_dark: dict[str, Any],
    classes: tuple[str, ...],
    moves: bool,
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True}
    # It says 0.99 of itself, but of these images it gets half right: those of "neu" it does not know.
    train(0.99, promotion, dataset=bright_and_dark)
    other = shades("other", {"hell": 230, "neu": 20})
    _, promoted = train(0.7, promotion, dataset=other, classes=classes)

    assert promoted["moved"] is moves
    assert champion() == ("2" if moves else "1")
    if not moves:
        assert promoted["message"].startswith(
            "champion stays version 1: its top1 is 0.5000 on the images of this job, that of version 2 is 0.0000 "
            "(95 % interval of the difference -0.8000 to -0.2000)"
        )


def test_the_message_gives_the_interval_and_warns_of_validation_images(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any]
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True}
    train(0.5, promotion, dataset=bright_and_dark, classes=HALF)
    _, promoted = train(1.0, promotion, dataset=bright_and_dark)

    assert champion() == "2"
    assert promoted["message"].startswith(
        "champion is version 2 now; it was version 1 before; its top1 is 0.5000 on the images of this job, that of "
        "version 2 is 1.0000 (95 % interval of the difference +0.2000 to +0.8000). These are the validation images, by "
        "which the best epoch of the new version was chosen"
    )


@pytest.mark.parametrize(("confidence", "moves"), [(0.95, True), (0.99, False)])
def test_the_alias_moves_only_if_a_paired_test_shows_the_confidence(
    train: Trainings,
    champion: Callable[[], str],
    bright_and_dark: dict[str, Any],
    confidence: float,
    moves: bool,
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True, "confidence": confidence}
    train(0.5, promotion, dataset=bright_and_dark, classes=HALF)
    _, promoted = train(1.0, promotion, dataset=bright_and_dark)

    # Five of ten images only the candidate gets right, none only the champion: 1 - 1/32.
    assert champion() == ("2" if moves else "1")
    assert ("a confidence of 0.99 is asked for, and that the difference is not by chance has 0.9688" in
            promoted["message"]) is not moves  # fmt: skip


@pytest.mark.parametrize(("least", "moves"), [(0.4, True), (0.5, False)])
def test_the_gain_must_exceed_the_least_one(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any], least: float, moves: bool
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True, "leastGain": least}
    train(0.5, promotion, dataset=bright_and_dark, classes=HALF)
    _, promoted = train(1.0, promotion, dataset=bright_and_dark)

    assert champion() == ("2" if moves else "1")
    assert ("more than 0.5 more is asked for" in promoted["message"]) is not moves


def test_without_the_champions_files_no_confidence_can_be_shown(
    train: Trainings, champion: Callable[[], str], bright_and_dark: dict[str, Any]
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True, "confidence": 0.9}
    train(0.5, promotion, dataset=bright_and_dark, classes=HALF, without_files=True)
    _, promoted = train(1.0, promotion, dataset=bright_and_dark)

    assert champion() == "1"
    assert "its top1 is 0.5000 as recorded" in promoted["message"]
    assert "those of the present one are not to be had" in promoted["message"]


def test_a_champion_that_cannot_be_judged_keeps_its_place(
    train: Trainings,
    champion: Callable[[], str],
    shades: Callable[..., dict[str, Any]],
    bright_and_dark: dict[str, Any],
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True}
    train(0.5, promotion, dataset=bright_and_dark, without_files=True)
    _, promoted = train(0.9, promotion, dataset=shades("others", {"hell": 230, "dunkel": 20, "mittel": 120}))

    assert champion() == "1"
    assert promoted["moved"] is False
    assert "could not be found out" in promoted["message"]


@pytest.mark.parametrize("address", ["s3://elsewhere/model", "http://169.254.169.254/", "nonsense"])
def test_an_address_in_a_tag_is_not_followed(
    train: Trainings,
    champion: Callable[[], str],
    mlflow: MlflowServer,
    shades: Callable[..., dict[str, Any]],
    bright_and_dark: dict[str, Any],
    tmp_path: Path,
    address: str,
) -> None:
    promotion = {"alias": "champion", "betterThanCurrent": True}
    train(0.5, promotion, dataset=bright_and_dark)
    mlflow.client().set_model_version_tag(tmp_path.name.replace("_", "-"), "1", "bloomery.dev/uri", address)
    _, promoted = train(0.9, promotion, dataset=shades("others", {"hell": 230, "dunkel": 20, "mittel": 120}))

    assert champion() == "1"
    assert f"version 1 lies at {address}, which this job does not read" in promoted["message"]
