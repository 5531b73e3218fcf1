"""What a run leaves when it ends: its record, its reports and result.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.context import RunContext
from bloomery_trainer.engine.held_out import Judgement
from bloomery_trainer.engine.training import TrainingResult
from bloomery_trainer.output import LOG, RESULT
from bloomery_trainer.publish.run_record import RunRecord, open_record
from bloomery_trainer.reports.evaluation import ReportMetadata, write_reports
from bloomery_trainer.shutdown import Terminated


@contextmanager
def opened_record(context: RunContext, *, origin: str | None) -> Iterator[RunRecord]:
    """The run's record, of the leader alone; ends with the block as FINISHED, KILLED or FAILED.

    `origin` says in words which model the run began with.
    """
    record = RunRecord()
    if context.world.is_leader:
        record = open_record(
            context.config,
            context.resolved_recipe,
            os.environ,
            output=context.output,
            scratch=context.scratch,
            origin=origin,
        )
    try:
        yield record
    except BaseException as error:
        record.close("KILLED" if isinstance(error, Terminated) else "FAILED")
        raise
    record.close("FINISHED")


def report_about(
    context: RunContext, dataset: LocalDataset, judgement: Judgement, fitted: TrainingResult, *, data_type: str
) -> ReportMetadata:
    """What the report on a trained model tells."""
    config = context.config
    return ReportMetadata(
        title=report_title(context),
        preset=config.preset,
        metric=config.metric,
        best_epoch=fitted.best_epoch,
        dataset=dataset,
        validation=judgement.validation,
        test=judgement.test,
        data_type=data_type,
        start=context.progress.snapshot()["initialModel"],
        last_epoch=fitted.last_epoch,
        balance=config.hyperparameters.balance,
        notes=fitted.notes,
    )


def report_title(context: RunContext) -> str:
    """What people call the job."""
    return context.config.display_name or f"{context.config.namespace}/{context.config.name}"


def publish_reports(context: RunContext, about: ReportMetadata) -> Path:
    """Writes the reports to the output folder; returns where they are on this machine."""
    folder = context.scratch / "reports"
    folder.mkdir()
    write_reports(folder, about)
    for path in sorted(folder.iterdir()):
        context.output.upload(path, path.name)
    return folder


def write_result(
    context: RunContext, record: RunRecord, fitted: TrainingResult | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes result.json, the proof that the run has ended, and returns its content.

    Args:
        job: the run.
        record: the run's record, which gets the log.
        fitted: how training ended, None where nothing was trained.
        more: at least model, metrics, evaluatedOn and notes.
    """
    figures = context.progress.snapshot()
    saved = fitted.saved if fitted is not None else None
    result = {
        "uid": context.config.uid,
        "reason": "Evaluated" if fitted is None else fitted.reason,
        "mlflow": record.run_document(),
        "initialModel": figures["initialModel"],
        **({"recipe": figures["recipe"]} if "recipe" in figures else {}),
        "lastEpoch": _rounded(fitted.last_epoch) if fitted is not None and fitted.last_epoch else None,
        "stillImproving": fitted is not None and fitted.still_improving,
        "starts": context.starts if fitted is None else fitted.starts,
        "progress": {name: figures[name] for name in ("epoch", "step", "totalSteps") if name in figures},
        "lastCheckpoint": saved.document() if saved else None,
        "promoted": None,
        **more,
        "metrics": _rounded(more["metrics"]),
    }
    context.output.write(RESULT, json.dumps(result, ensure_ascii=False, indent=1).encode())
    record.log_file(context.scratch / LOG)
    return result


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}
