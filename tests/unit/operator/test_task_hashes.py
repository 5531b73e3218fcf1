"""When work is done again, and when it is not."""

from __future__ import annotations

from typing import Any

import pytest

from bloomery_operator.manifests import prepare_job
from tests.unit.operator.samples import dataset, settings

PLAIN = prepare_job.build_task(dataset(), settings())


@pytest.mark.parametrize(
    "spec",
    [
        {"source": {"uri": "s3://flowers/other"}},
        {"source": {"uri": "s3://flowers/raw", "secretRef": {"name": "mine"}}},
        {"split": {"seed": 1}},
        {"rules": {"minImagesPerClass": 10}},
        {"shards": {"images": 10}},
    ],
)
def test_what_changes_the_images_is_prepared_again(spec: dict[str, Any]) -> None:
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
def test_what_changes_no_image_is_not_prepared_again(spec: dict[str, Any]) -> None:
    task = prepare_job.build_task(dataset(spec), settings())
    assert (task.hash, task.job_hash) == (PLAIN.hash, PLAIN.job_hash)


def test_more_memory_is_another_job_but_the_same_images() -> None:
    task = prepare_job.build_task(dataset({"resources": {"limits": {"memory": "8Gi"}}}), settings())
    assert task.hash == PLAIN.hash
    assert task.job_hash != PLAIN.job_hash


def test_a_refresh_is_prepared_again() -> None:
    refreshed = dataset(annotations={"bloomery.dev/refresh": "1"})
    assert prepare_job.build_task(refreshed, settings()).hash != PLAIN.hash


def test_another_operator_image_or_store_repeats_nothing() -> None:
    other = settings(trainer_image="example/trainer:2", store_uri="s3://elsewhere")
    assert prepare_job.build_task(dataset(), other).job_hash == PLAIN.job_hash
