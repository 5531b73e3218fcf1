"""Configurations that the operator writes, read by the trainer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from bloomery_operator.manifests.memory import MEMORY_LIMITS
from bloomery_trainer.config import Hyperparameters, PrepareConfig, TrainConfig, load
from bloomery_trainer.models.presets import PRESETS
from testing.crds import read_schema

GOLDEN = Path(__file__).resolve().parents[3] / "golden"
TRAINING_PAGE = Path(__file__).resolve().parents[4] / "docs" / "guides" / "training.md"


def documents() -> list[Any]:
    """Return each configuration that the golden manifests hold, with its file's name."""
    parameters = []
    for path in sorted(GOLDEN.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            data = manifest.get("stringData") or manifest.get("data") or {}
            if "config.json" in data:
                parameters.append(pytest.param(data["config.json"], id=path.stem))
    return parameters


@pytest.mark.parametrize("document", documents())
def test_trainer_reads_every_golden_configuration(document: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(document, encoding="utf-8")
    config = load(path)
    # Each field that was handed over comes back with the same value.
    assert _without_defaults(config) == json.loads(document)


def test_golden_configurations_cover_both_kinds(tmp_path: Path) -> None:
    kinds = set()
    for number, parameter in enumerate(documents()):
        path = tmp_path / f"{number}.json"
        path.write_text(parameter.values[0], encoding="utf-8")
        kinds.add(type(load(path)))
    assert kinds == {PrepareConfig, TrainConfig}


@pytest.mark.parametrize(
    ("field", "model", "name"),
    [
        (("metric",), TrainConfig, "metric"),
        (("hyperparameters", "optimizer"), Hyperparameters, "optimizer"),
        (("hyperparameters", "augmentation"), Hyperparameters, "augmentation"),
        (("hyperparameters", "trainable"), Hyperparameters, "trainable"),
        (("hyperparameters", "balance"), Hyperparameters, "balance"),
    ],
)
def test_crd_enum_equals_the_trainers(field: tuple[str, ...], model: type[BaseModel], name: str) -> None:
    schema = read_schema("trainingjobs")
    for part in field:
        schema = schema["properties"][part]
    assert set(schema["enum"]) == _words(model.model_fields[name].annotation)


@pytest.mark.feature("T1")
def test_kind_has_every_preset() -> None:
    assert set(read_schema("trainingjobs")["properties"]["preset"]["enum"]) == set(PRESETS)


@pytest.mark.feature("T25")
def test_every_preset_has_a_memory_limit() -> None:
    assert set(MEMORY_LIMITS) == set(PRESETS)


@pytest.mark.feature("T25")
def test_memory_limits_are_those_of_the_page() -> None:
    """The table in docs/guides/training.md: a row for each limit, with the presets that have it."""
    rows = re.findall(r"^\| (\d+Gi) \| (`.*`) \|$", TRAINING_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {preset: limit for limit, presets in rows for preset in re.findall(r"`([^`]+)`", presets)} == MEMORY_LIMITS


def _words(annotation: Any) -> set[str]:
    """Return the values of a Literal, also where it may be None."""
    if isinstance(annotation, str):
        return {annotation}
    return {word for part in get_args(annotation) if part is not type(None) for word in _words(part)}


def _without_defaults(config: PrepareConfig | TrainConfig) -> Any:
    return config.model_dump(mode="json", by_alias=True, exclude_unset=True)
