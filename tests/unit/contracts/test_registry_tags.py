"""The tags of a model's version in MLflow, which the trainer writes and the operator and the plugin read."""

from __future__ import annotations

import inspect

from bloomery_model import lineage
from bloomery_operator.clients import mlflow
from bloomery_trainer.prepare.report import mlflow_run
from kubectl_bloomery.commands import report


def test_operator_reads_the_tags_that_the_trainer_writes() -> None:
    assert mlflow._URI_TAG == lineage.URI_TAG
    assert mlflow._DIGEST_TAG == lineage.DIGEST_TAG
    assert mlflow._LABEL_TAG == lineage.VERSION_LABEL_TAG
    assert mlflow._JOB_TAG == lineage.TRAINING_JOB_TAG
    assert mlflow._DATASET_TAG == lineage.DATASET_TAG
    assert mlflow._DATASET_VERSION_TAG == lineage.DATASET_VERSION_TAG


def test_plugin_looks_for_the_tags_of_a_datasets_run() -> None:
    source = inspect.getsource(report)
    assert f'"{mlflow_run.KIND_TAG}": "dataset"' in source
    assert f'"{lineage.DATASET_VERSION_TAG}": version' in source
