"""Records the report of a dataset version in MLflow; a dataset is ready even if MLflow is away or slow."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from bloomery_model.lineage import DATASET_TAG, DATASET_VERSION_TAG
from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.mlflow_server import connect, experiment, in_words
from bloomery_trainer.prepare.manifest import REPORT_NAME

logger = logging.getLogger(__name__)

KIND_TAG = "bloomery.dev/kind"
_TIMEOUT_SECONDS = 30.0


def record_in_mlflow(config: PrepareConfig, summary: Mapping[str, Any], page: str | None) -> dict[str, str | None]:
    """Record the report of a version, unless MLflow has it; return the experiment and the run, or nulls.

    Args:
        config: of the preparation.
        summary: of the version.
        page: the report, or None if the version has none.
    """
    location: dict[str, str | None] = {"experimentId": None, "runId": None}
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return location

    def record() -> None:
        try:
            location.update(_record_report(uri, config, summary, page))
        except Exception as error:
            logger.warning("MLflow did not take the report: %s", in_words(error))

    thread = threading.Thread(target=record, name="mlflow", daemon=True)
    thread.start()
    thread.join(_TIMEOUT_SECONDS)
    if thread.is_alive():
        logger.warning("MLflow did not take the report: no answer in %.0f s", _TIMEOUT_SECONDS)
    return dict(location)


def _record_report(
    uri: str, config: PrepareConfig, summary: Mapping[str, Any], page: str | None
) -> dict[str, str | None]:
    client = connect(uri)
    # Imported only now: MLflow takes seconds to load.
    from bloomery_trainer.mlflow_artifacts import require_reachable

    name = f"{config.namespace}/{config.name}"
    experiment_id = experiment(client, name)
    # Trainings on this version have its tag, too, and may be in the same experiment.
    version_filter = f"tags.`{KIND_TAG}` = 'dataset' and tags.`{DATASET_VERSION_TAG}` = '{summary['version']}'"
    runs = client.search_runs([experiment_id], version_filter, max_results=1)
    if runs and client.list_artifacts(runs[0].info.run_id):
        return {"experimentId": experiment_id, "runId": str(runs[0].info.run_id)}
    title = f"dataset {config.name} {summary['version'][:12]}"
    # A run without artifacts is one that was interrupted.
    run = runs[0] if runs else client.create_run(experiment_id, run_name=title, tags=_build_tags(config, summary))
    run_id = str(run.info.run_id)
    require_reachable(str(run.info.artifact_uri), uri)
    client.log_metric(run_id, "images", summary["images"])
    client.log_metric(run_id, "classes", summary["classCount"])
    if page is not None:
        client.log_text(run_id, page, REPORT_NAME)
    client.set_terminated(run_id)
    logger.info("the report is in MLflow: run %s in experiment %r", run_id, name)
    return {"experimentId": experiment_id, "runId": run_id}


def _build_tags(config: PrepareConfig, summary: Mapping[str, Any]) -> dict[str, str]:
    description = "\n\n".join(filter(None, (config.display_name, config.description)))
    return {
        KIND_TAG: "dataset",
        DATASET_VERSION_TAG: str(summary["version"]),
        DATASET_TAG: f"{config.namespace}/{config.name}",
        "bloomery.dev/dataset-uri": str(summary["uri"]),
        **({"mlflow.note.content": description} if description else {}),
    }
