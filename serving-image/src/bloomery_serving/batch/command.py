"""The command ``batch``: predicts a share of the images of a source, and goes on where an interrupted run ended."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bloomery_model import termination
from bloomery_model.signals import on_sigterm
from bloomery_model.sources.access import open_folder
from bloomery_model.sources.base import Source
from bloomery_model.sources.open import open_source
from bloomery_model.stores import S3Access
from bloomery_model.task_errors import BadConfig, TaskError, Unavailable
from bloomery_serving.answers import Answerer, AnswerPolicy
from bloomery_serving.batch.file_list import Share
from bloomery_serving.batch.formats import open_format
from bloomery_serving.batch.output import Output
from bloomery_serving.batch.pipeline import Predictor
from bloomery_serving.batch.progress import Progress, serve_progress, totals
from bloomery_serving.batch.settings import BatchSettings, read_batch_settings
from bloomery_serving.batch.share import ShareRun
from bloomery_serving.batcher import Batcher
from bloomery_serving.capacity import Capacity
from bloomery_serving.engine_choice.comparison import Served
from bloomery_serving.engine_choice.selection import EngineSelection
from bloomery_serving.engines.base import EngineReport
from bloomery_serving.errors import ModelError
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.image_file import Limits
from bloomery_serving.jobs import Watchdog
from bloomery_serving.loading import load
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model
from bloomery_serving.quality_metrics import QualityMetrics
from bloomery_serving.settings import Settings, read_settings
from bloomery_serving.transfer import Transfer

logger = logging.getLogger(__name__)

OUTPUT_PREFIX = "OUTPUT_STORE_"
"""Prefix of the variables of the Secret of the output's own store."""
_TERMINATED_EXIT_CODE = 143
_WATCH_SECONDS = 10
_UNAVAILABLE_REASON = "StoreUnavailable"
"""Reason of a model that another try may find."""


def run() -> int:
    """Predict a share; return the exit code: 2 and 3 for errors that no other try can help, 143 after SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with on_sigterm(_stop_at_once):
            message = _predict()
    except TaskError as error:
        logger.error("%s: %s", error.reason, error)
        _write_message(termination.failure(error.reason, str(error)))
        return error.exit_code
    except Exception as error:
        logger.exception("unexpected error")
        _write_message(termination.failure("InternalError", f"{type(error).__name__}: {error}"))
        return 1
    _write_message(message)
    return 0


def _stop_at_once() -> None:
    # The parts that are complete are in the store; the others are predicted again.
    _write_message(termination.failure("Terminated", "the pod was asked to stop"))
    os._exit(_TERMINATED_EXIT_CODE)


def _write_message(message: dict[str, Any]) -> None:
    termination.write(termination.path_from(os.environ), message)


def _predict() -> dict[str, Any]:
    """Predict the share that the environment describes; return the termination message.

    Raises:
        TaskError: the share cannot be predicted.
    """
    batch = read_batch_settings()
    with tempfile.TemporaryDirectory(dir=batch.scratch_dir, prefix="batch-") as scratch, _as_task_errors():
        settings = read_settings()
        model, identity = load(settings, Transfer(max_bytes=settings.model_max_bytes))
        source = _open_source(batch, Path(scratch))
        output = _open_output(batch, source, model)
        progress = Progress(lambda: output.read_other_records(batch.batch_pods), batch.batch_pods)
        if batch.progress_port:
            serve_progress(progress, batch.progress_port)
        run = ShareRun(
            share=Share(batch.job_completion_index, batch.batch_pods),
            owner=batch.owner(settings),
            digest=model.digest,
            output=output,
            list_file=Path(scratch, "files.jsonl.gz"),
            on_progress=progress.update,
        )
        record = run.begin(source)
        capacity = Capacity.of_container(settings)
        # Before the first image, so that one engine computes all of them.
        engine = _choose_engine(settings, model, capacity)
        record = asyncio.run(run.predict(_build_predictor(settings, model, identity, capacity, source), record))
        return totals([record, *output.read_other_records(batch.batch_pods)], batch.batch_pods) | {
            "engine": str(engine.form),
            "digest": model.digest,
        }


@contextmanager
def _as_task_errors() -> Iterator[None]:
    """Turn the errors of a model into those of a task: only a store that does not answer is worth another try."""
    try:
        yield
    except ModelError as error:
        kind = Unavailable if error.reason == _UNAVAILABLE_REASON else BadConfig
        raise kind(error.reason, str(error).removesuffix(".")) from error


def _open_source(batch: BatchSettings, scratch: Path) -> Source:
    source = open_source(
        batch.source_uri, scratch, max_archive_bytes=batch.max_archive_bytes, encoding=batch.source_encoding
    )
    for warning in source.warnings:
        logger.warning("%s", warning)
    return source


def _open_output(batch: BatchSettings, source: Source, model: Model) -> Output:
    access = S3Access.of_own_secret(os.environ, OUTPUT_PREFIX)
    return Output(
        open_folder(batch.output_uri, access, create=True),
        open_format(batch.output_format, model.labels),
        model.labels,
        index=batch.job_completion_index,
        copies_of=source if batch.output_folders else None,
    )


def _choose_engine(settings: Settings, model: Model, capacity: Capacity) -> EngineReport:
    EngineSelection(Served.of(settings, model, capacity), on_choice=lambda _: None).run()
    return model.engine


def _build_predictor(
    settings: Settings, model: Model, identity: ModelIdentity, capacity: Capacity, source: Source
) -> Predictor:
    """Return the workers of the model server, with its limits and its policy."""
    metrics = Metrics(identity, service=settings.service_name)
    policy = AnswerPolicy.of(settings, model.statistics, classes=len(model.labels))
    quality = QualityMetrics(metrics.registry, model.labels, model.statistics.reference)
    limits = Limits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels)
    watchdog = Watchdog(settings.hang_seconds)
    threading.Thread(target=_end_if_hung, args=(watchdog,), name="watchdog", daemon=True).start()
    return Predictor(
        source,
        Batcher(model, metrics, watchdog, limits=limits, capacity=capacity),
        Answerer(model.labels, policy, quality),
        limits,
        max_bytes=capacity.queue_bytes,
    )


def _end_if_hung(watchdog: Watchdog) -> None:
    """End the process once a worker hangs, as nothing else can end native code; runs for ever."""
    while not watchdog.is_hung:
        threading.Event().wait(_WATCH_SECONDS)
    message = "an image or a batch was not computed in time; the log says more"
    logger.error("%s", message)
    _write_message(termination.failure("Hung", message))
    os._exit(1)
