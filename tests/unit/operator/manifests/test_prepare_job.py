"""Hashes of preparations: changes that repeat the work, and changes that do not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bloomery_operator.api import InvalidResource
from bloomery_operator.manifests import prepare_job
from tests.unit.operator.samples import dataset, settings

PLAIN = prepare_job.build_task(dataset(), settings())


@pytest.mark.parametrize(
    "spec",
    [
        {"source": {"uri": "s3://flowers/other"}},
        {"source": {"uri": "s3://flowers/raw", "secretRef": {"name": "mine"}}},
        {"source": {"uri": "s3://flowers/raw", "encoding": "gbk"}},
        {"split": {"seed": 1}},
        {"rules": {"minImagesPerClass": 10}},
        {"shards": {"images": 10}},
    ],
)
def test_change_of_images_is_prepared_again(spec: dict[str, Any]) -> None:
    assert prepare_job.build_task(dataset(spec), settings()).hash != PLAIN.hash


@pytest.mark.parametrize(
    "spec",
    [
        {"displayName": "Flowers"},
        {"description": "As seen."},
        {"split": {"validation": 0.2, "seed": 0}},
        {"rules": {"check": True, "maxBytes": "4Mi"}},
    ],
)
def test_change_of_no_image_keeps_the_hashes(spec: dict[str, Any]) -> None:
    task = prepare_job.build_task(dataset(spec), settings())
    assert (task.hash, task.job_hash) == (PLAIN.hash, PLAIN.job_hash)


def test_other_resources_need_another_job_for_the_same_result() -> None:
    task = prepare_job.build_task(dataset({"resources": {"limits": {"memory": "8Gi"}}}), settings())
    assert task.hash == PLAIN.hash
    assert task.job_hash != PLAIN.job_hash


def test_refresh_is_prepared_again() -> None:
    refreshed = dataset(annotations={"bloomery.dev/refresh": "1"})
    assert prepare_job.build_task(refreshed, settings()).hash != PLAIN.hash


def test_other_image_or_store_keeps_the_job_hash() -> None:
    other = settings(trainer_image="example/trainer:2", store_uri="s3://elsewhere")
    assert prepare_job.build_task(dataset(), other).job_hash == PLAIN.job_hash


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"split": {"validation": "much"}}, "spec.split.validation: input should be a valid number"),
        ({"rules": {"maxBytes": ["4Mi"]}}, "is not a quantity such as 5Gi"),
        ({"rules": {"maxBytes": "large"}}, "'large' is not a quantity such as 5Gi"),
    ],
)
def test_value_that_the_crd_would_refuse_is_an_invalid_resource(spec: dict[str, Any], words: str) -> None:
    """An object that was stored without the CRD's checks gets a condition, not an error without end."""
    with pytest.raises(InvalidResource, match=re.escape(words)):
        prepare_job.build_task(dataset(spec), settings())


@pytest.mark.feature("S23")
def test_each_time_of_the_refresh_is_prepared_again_but_not_its_schedule() -> None:
    first, second = (
        prepare_job.build_task(dataset(status={"lastRefreshTime": f"2026-05-0{day}T02:00:00Z"}), settings()).hash
        for day in (1, 2)
    )
    assert len({PLAIN.hash, first, second}) == 3
    assert prepare_job.build_task(dataset({"refresh": {"schedule": "0 2 * * *"}}), settings()).hash == PLAIN.hash
