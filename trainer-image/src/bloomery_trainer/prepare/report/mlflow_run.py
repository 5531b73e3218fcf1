"""The report in MLflow, where people look for it. MLflow being away or slow never costs a dataset."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.mlflow_server import connect, experiment, in_words
from bloomery_trainer.prepare.manifest import REPORT

log = logging.getLogger(__name__)

KIND_TAG = "bloomery.dev/kind"
VERSION_TAG = "bloomery.dev/dataset-version"
_PATIENCE = 30.0


def record(config: PrepareConfig, summary: Mapping[str, Any], page: str | None) -> dict[str, str | None]:
    """Puts the report of a version into MLflow, unless it is there; where it lies, or nulls.

    Args:
        config: of the preparation.
        summary: of the version.
        page: the report, None where the version has none.
    """
    found: dict[str, str | None] = {"experimentId": None, "runId": None}
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return found

    def work() -> None:
        try:
            found.update(_record(uri, config, summary, page))
        except Exception as error:
            log.warning("MLflow did not take the report: %s", in_words(error))

    thread = threading.Thread(target=work, name="mlflow", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        log.warning("MLflow did not take the report: no answer in %.0f s", _PATIENCE)
    return dict(found)


def _record(uri: str, config: PrepareConfig, summary: Mapping[str, Any], page: str | None) -> dict[str, str | None]:
    client = connect(uri)
    name = f"{config.namespace}/{config.name}"
    home = experiment(client, name)
    # Trainings on this version carry its tag too, and may be in the same experiment.
    mine = f"tags.`{KIND_TAG}` = 'dataset' and tags.`{VERSION_TAG}` = '{summary['version']}'"
    runs = client.search_runs([home], mine, max_results=1)
    if runs and client.list_artifacts(runs[0].info.run_id):
        return {"experimentId": home, "runId": str(runs[0].info.run_id)}
    title = f"dataset {config.name} {summary['version'][:12]}"
    # Without artifacts it is one whose writing was cut short.
    run = runs[0] if runs else client.create_run(home, run_name=title, tags=_tags(config, summary))
    run_id = str(run.info.run_id)
    client.log_metric(run_id, "images", summary["images"])
    client.log_metric(run_id, "classes", summary["classCount"])
    if page is not None:
        client.log_text(run_id, page, REPORT)
    client.set_terminated(run_id)
    log.info("the report is in MLflow: run %s in experiment %r", run_id, name)
    return {"experimentId": home, "runId": run_id}


def _tags(config: PrepareConfig, summary: Mapping[str, Any]) -> dict[str, str]:
    about = "\n\n".join(filter(None, (config.display_name, config.description)))
    return {
        KIND_TAG: "dataset",
        VERSION_TAG: str(summary["version"]),
        "bloomery.dev/dataset": f"{config.namespace}/{config.name}",
        "bloomery.dev/dataset-uri": str(summary["uri"]),
        **({"mlflow.note.content": about} if about else {}),
    }
