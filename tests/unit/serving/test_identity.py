"""The model's identity from the environment, completed by the lineage in its folder."""

from __future__ import annotations

import pytest

from bloomery_model.lineage import Lineage
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics import Metrics
from bloomery_serving.settings import Settings

pytestmark = pytest.mark.feature("S12")

FOLDER = Lineage(run_id="r7", training_job="shop/flowers", dataset_name="paint", dataset_version="a1")


def resolve(lineage: Lineage = FOLDER, **settings: str) -> ModelIdentity:
    return ModelIdentity.resolve(Settings(model_uri="file:///model", **settings), lineage, digest="d")  # type: ignore[arg-type]


def test_environment_goes_before_the_folder() -> None:
    identity = resolve(run_id="own", service_namespace="shop")
    assert (identity.run_id, identity.training_job, identity.dataset) == ("own", "flowers", "paint@a1")
    assert resolve().training_job == "shop/flowers"


def test_dataset_and_its_version_come_from_one_place() -> None:
    assert resolve(dataset_name="ink").dataset == "ink"


def test_identity_is_the_same_after_a_kit_has_carried_its_settings() -> None:
    identity = resolve(service_namespace="shop", variant="v1", model_name="colours", model_version="4")
    assert resolve(Lineage(), service_namespace="shop", **identity.settings) == identity


def test_metric_has_all_labels_if_nothing_is_known() -> None:
    metrics = Metrics(resolve(Lineage()), service="model")
    (family,) = (f for f in metrics.registry.collect() if f.name == "bloomery_model_info")
    lineage = {name: family.samples[0].labels[name] for name in ("run_id", "training_job", "dataset")}
    assert lineage == {"run_id": "", "training_job": "", "dataset": ""}
