"""What a run leaves when it ends: its record, its reports and result.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.context import Job
from bloomery_trainer.engine.held_out import Judgement
from bloomery_trainer.engine.training import Fitted
from bloomery_trainer.output import LOG, RESULT
from bloomery_trainer.publish.record import NoRecord, Record, open_record
from bloomery_trainer.reports.evaluation import ReportAbout, write_reports
from bloomery_trainer.shutdown import Terminated


@contextmanager
def opened_record(job: Job, *, origin: str | None) -> Iterator[Record]:
    """The run's record, of the leader alone; ends with the block as FINISHED, KILLED or FAILED.

    `origin` says in words which model the run began with.
    """
    record: Record = NoRecord()
    if job.world.is_leader:
        record = open_record(
            job.config, job.resolved_recipe, os.environ, output=job.output, scratch=job.scratch, origin=origin
        )
    try:
        yield record
    except BaseException as error:
        record.close("KILLED" if isinstance(error, Terminated) else "FAILED")
        raise
    record.close("FINISHED")


def report_about(
    job: Job, dataset: LocalDataset, judgement: Judgement, fitted: Fitted, *, data_type: str
) -> ReportAbout:
    """What the report on a trained model tells."""
    config = job.config
    return ReportAbout(
        title=report_title(job),
        preset=config.preset,
        metric=config.metric,
        best_epoch=fitted.best_epoch,
        dataset=dataset,
        validation=judgement.validation,
        test=judgement.test,
        data_type=data_type,
        start=job.progress.snapshot()["initialModel"],
        last_epoch=fitted.last_epoch,
        balance=config.hyperparameters.balance,
        notes=fitted.notes,
    )


def report_title(job: Job) -> str:
    """What people call the job."""
    return job.config.display_name or f"{job.config.namespace}/{job.config.name}"


def publish_reports(job: Job, about: ReportAbout) -> Path:
    """Writes the reports to the output folder; returns where they are on this machine."""
    folder = job.scratch / "reports"
    folder.mkdir()
    write_reports(folder, about)
    for path in sorted(folder.iterdir()):
        job.output.upload(path, path.name)
    return folder


def write_result(job: Job, record: Record, fitted: Fitted | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """Writes result.json, the proof that the run has ended, and returns its content.

    Args:
        job: the run.
        record: the run's record, which gets the log.
        fitted: how training ended, None where nothing was trained.
        more: at least model, metrics, evaluatedOn and notes.
    """
    figures = job.progress.snapshot()
    saved = fitted.saved if fitted is not None else None
    result = {
        "uid": job.config.uid,
        "reason": "Evaluated" if fitted is None else fitted.reason,
        "mlflow": record.run_document(),
        "initialModel": figures["initialModel"],
        **({"recipe": figures["recipe"]} if "recipe" in figures else {}),
        "lastEpoch": _rounded(fitted.last_epoch) if fitted is not None and fitted.last_epoch else None,
        "stillImproving": fitted is not None and fitted.still_improving,
        "starts": job.starts if fitted is None else fitted.starts,
        "progress": {name: figures[name] for name in ("epoch", "step", "totalSteps") if name in figures},
        "lastCheckpoint": saved.document() if saved else None,
        "promoted": None,
        **more,
        "metrics": _rounded(more["metrics"]),
    }
    job.output.write(RESULT, json.dumps(result, ensure_ascii=False, indent=1).encode())
    record.log_file(job.scratch / LOG)
    return result


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}
