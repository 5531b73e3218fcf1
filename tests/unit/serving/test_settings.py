"""What the environment says of a model goes before what its folder says."""

from __future__ import annotations

import pytest

from bloomery_serving.lineage import Lineage
from bloomery_serving.metrics import Metrics
from bloomery_serving.settings import Settings

pytestmark = pytest.mark.feature("S12")

FOLDER = Lineage(run_id="r7", training_job="shop/flowers", dataset_name="paint", dataset_version="a1")


def settings(**given: str) -> Settings:
    return Settings(model_uri="file:///model", **given)


def test_what_the_environment_leaves_out_is_taken_from_the_folder() -> None:
    completed = settings(run_id="own", service_namespace="shop").completed_by(FOLDER)
    assert (completed.run_id, completed.training_job, completed.dataset) == ("own", "flowers", "paint@a1")
    assert settings().completed_by(FOLDER).training_job == "shop/flowers"


def test_a_dataset_and_its_version_come_from_one_place() -> None:
    assert settings(dataset_name="ink").completed_by(FOLDER).dataset == "ink"


def test_the_metric_has_the_labels_of_the_past_also_where_nothing_is_known() -> None:
    (family,) = (f for f in Metrics(settings(), digest="d").registry.collect() if f.name == "bloomery_model_info")
    past = {name: family.samples[0].labels[name] for name in ("run_id", "training_job", "dataset")}
    assert past == {"run_id": "", "training_job": "", "dataset": ""}
