"""The model of this process: fetched and loaded, with its identity."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from bloomery_serving.identity import ModelIdentity
from bloomery_serving.model import Model
from bloomery_serving.settings import Settings
from bloomery_serving.storage import ensure_model
from bloomery_serving.transfer import Transfer

logger = logging.getLogger(__name__)


def load(settings: Settings, transfer: Transfer | None = None) -> tuple[Model, ModelIdentity]:
    """Fetch and load the model; log the time that each took.

    Args:
        settings: of the server.
        transfer: counts what is fetched; None limits nothing.

    Raises:
        ModelError: the model cannot be served.
    """
    start = time.perf_counter()
    transfer = transfer or Transfer()
    stored = ensure_model(
        settings.model_uri,
        settings.model_dir,
        digest=settings.model_digest,
        with_explanation=settings.explain,
        with_references=settings.engine != "OnnxRuntime",
        transfer=transfer,
        needs_statistics=settings.answer_precision is not None,
    )
    transfer.note_progress()
    fetched = time.perf_counter()
    # As many predictions run side by side as there are processors: each has one thread.
    model = Model.load(
        settings.model_dir,
        digest=stored.digest,
        threads=1,
        explanation=stored.explanation,
        references=stored.references,
    )
    logger.info(
        "the model is ready %.1f s after the process began: fetched in %.1f s, loaded in %.1f s",
        _process_age(), fetched - start, time.perf_counter() - fetched,
    )  # fmt: skip
    return model, ModelIdentity.resolve(settings, stored.lineage, digest=stored.digest)


def _process_age() -> float:
    """Return the seconds since the process began (proc(5), field 22)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.process_time()
    return uptime - ticks / os.sysconf("SC_CLK_TCK")
