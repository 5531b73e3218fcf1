"""The end of a run: its record, its reports and result.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bloomery_trainer.data.dataset import LocalDataset
from bloomery_trainer.engine.calibration import Calibration
from bloomery_trainer.engine.context import RunContext
from bloomery_trainer.engine.heat_maps import HeatMaps
from bloomery_trainer.engine.held_out import EvaluationResult
from bloomery_trainer.engine.suspects import Suspects
from bloomery_trainer.engine.training import TrainingResult
from bloomery_trainer.output import LOG, RESULT
from bloomery_trainer.publish.run_record import RunRecord, open_record
from bloomery_trainer.reports.evaluation import ReportMetadata, write_reports
from bloomery_trainer.shutdown import Terminated


@contextmanager
def opened_record(context: RunContext, *, origin: str | None) -> Iterator[RunRecord]:
    """Open the run's record on the leader; end it with the block as FINISHED, KILLED or FAILED.

    ``origin`` describes the model that the run began with.
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


def report_metadata(
    context: RunContext,
    dataset: LocalDataset,
    evaluation: EvaluationResult,
    training: TrainingResult,
    *,
    data_type: str,
    calibration: Calibration,
    suspects: Suspects,
) -> ReportMetadata:
    """Collect the metadata of the report on a trained model."""
    config = context.config
    return ReportMetadata(
        title=report_title(context),
        preset=config.preset,
        metric=config.metric,
        best_epoch=training.best_epoch,
        dataset=dataset,
        validation=evaluation.validation,
        test=evaluation.test,
        data_type=data_type,
        calibration=calibration,
        picture=HeatMaps(training.model, context.preprocess).picture,
        start=context.progress.snapshot()["initialModel"],
        last_epoch=training.last_epoch,
        length="learningRateSchedule" if context.recipe.stages else context.recipe.max_steps,
        balance=config.hyperparameters.balance,
        suspects=suspects,
        still_improving=training.still_improving,
        notes=training.notes,
    )


def report_title(context: RunContext) -> str:
    """Return the title of the report."""
    return context.config.display_name or f"{context.config.namespace}/{context.config.name}"


def publish_reports(context: RunContext, metadata: ReportMetadata) -> Path:
    """Write the reports to the output folder; return where they are on this machine."""
    folder = context.scratch / "reports"
    folder.mkdir()
    write_reports(folder, metadata)
    for path in sorted(folder.iterdir()):
        context.output.upload(path, path.name)
    return folder


def write_result(
    context: RunContext, record: RunRecord, training: TrainingResult | None, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write result.json, the proof that the run has ended, and return its content.

    Args:
        job: the run.
        record: the run's record, which gets the log.
        training: how training ended, None if nothing was trained.
        more: at least model, metrics, evaluatedOn and notes.
    """
    figures = context.progress.snapshot()
    saved = training.saved if training is not None else None
    result = {
        "uid": context.config.uid,
        "reason": "Evaluated" if training is None else training.reason,
        "mlflow": record.run_document(),
        "initialModel": figures["initialModel"],
        **({"recipe": figures["recipe"]} if "recipe" in figures else {}),
        "lastEpoch": _rounded(training.last_epoch) if training is not None and training.last_epoch else None,
        "stillImproving": training is not None and training.still_improving,
        "starts": context.starts if training is None else training.starts,
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
