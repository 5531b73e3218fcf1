"""The server's life: fetch, load, serve, drain."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from bloomery_serving.app import create_app
from bloomery_serving.errors import ModelError
from bloomery_serving.lineage import Lineage
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model
from bloomery_serving.resources import cpu_count
from bloomery_serving.settings import Settings
from bloomery_serving.storage import provide_model

logger = logging.getLogger(__name__)

LONGEST_TERMINATION_MESSAGE = 4096


def main() -> int:
    """Serve until SIGTERM; return the process' exit code: 1 where the model can not be served."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = Settings()  # type: ignore[call-arg]  # the environment gives what is required
    except ValidationError as error:
        wrong = "; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        return _give_up("BadSettings", f"The server's environment is not right: {wrong}")
    try:
        model, lineage = load(settings)
    except ModelError as error:
        return _give_up(error.reason, str(error))
    serve(settings.completed_by(lineage), model)
    return 0


def load(settings: Settings) -> tuple[Model, Lineage]:
    """Fetch and load the model; log how long each took. Return it, and where it comes from.

    Raises:
        ModelError: the model can not be served.
    """
    start = time.perf_counter()
    stored = provide_model(settings.model_uri, settings.model_dir, digest=settings.model_digest)
    fetched = time.perf_counter()
    # As many predictions run side by side as there are processors: each has one thread.
    model = Model.load(settings.model_dir, digest=stored.digest, threads=1)
    logger.info(
        "the model is ready %.1f s after the process began: fetched in %.1f s, loaded in %.1f s",
        _process_age(), fetched - start, time.perf_counter() - fetched,
    )  # fmt: skip
    return model, stored.lineage


def serve(settings: Settings, model: Model) -> None:
    """Answer requests until SIGTERM, then finish those that are under way."""
    metrics = Metrics(settings, digest=model.digest)
    metrics.serve(settings.metrics_port)
    app = create_app(settings, model, metrics, workers=cpu_count())
    # uvicorn drains on SIGTERM, then raises it once more against whoever handled it before: a drained server
    # ended well.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.run(
        app,
        host="0.0.0.0",
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Longer than a gateway keeps its idle connections, so that it is never we who close one in use.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.drain_seconds,
    )


def _give_up(reason: str, message: str) -> int:
    """Say why the server can not start: in the log, and where Kubernetes shows it."""
    logger.error("%s: %s", reason, message)
    document = json.dumps({"error": {"reason": reason, "message": message[:2000]}}, ensure_ascii=False)
    path = Path(os.environ.get("TERMINATION_LOG", "/dev/termination-log"))
    if path.exists() or "TERMINATION_LOG" in os.environ:
        path.write_bytes(document.encode()[:LONGEST_TERMINATION_MESSAGE])
    return 1


def _process_age() -> float:
    """Return the seconds since the process began (proc(5), field 22)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return time.process_time()
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
