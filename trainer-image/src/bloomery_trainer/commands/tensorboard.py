"""The ``tensorboard`` command: shows the curves that a training left in its output folder, also while it goes on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bloomery_model.signals import on_sigterm
from bloomery_trainer.errors import TrainerError
from bloomery_trainer.output import EVENTS
from bloomery_trainer.storage import Folder, S3Access, open_folder

logger = logging.getLogger(__name__)

_POLL_SECONDS = 20.0
_RELOAD_SECONDS = 10


def run(output_uri: str, *, port: int, prefix: str) -> int:
    """Serve TensorBoard for ``output_uri``/tensorboard on all addresses until SIGTERM; return its exit code.

    Args:
        output_uri: a training's output folder; it may be empty still.
        port: to listen on.
        prefix: the path under which it is published, such as ``/demo/flowers``; empty for ``/``.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="bloomery-tensorboard-") as scratch:
        mirror = Path(scratch) / "events"
        mirror.mkdir()
        threading.Thread(target=_follow, args=(output_uri, mirror, ended), name="mirror", daemon=True).start()
        # A process of its own can be ended immediately, whatever TensorBoard is doing.
        board = subprocess.Popen(_command(mirror, port=port, prefix=prefix), env={**os.environ, "TMPDIR": scratch})
        try:
            with on_sigterm(board.terminate):
                code = board.wait()
        finally:
            ended.set()
            board.kill()
            board.wait()
    return 0 if code == -signal.SIGTERM else code


def copy_new(output: Folder, mirror: Path) -> int:
    """Bring the local files up to what the folder has; return how many were new or had grown.

    A file that has grown is extended in place, as TensorBoard reads on where it was.
    """
    changed = 0
    for file in output.list(EVENTS):
        target = mirror / Path(file.path).name
        have = target.stat().st_size if target.exists() else 0
        if file.size > have:
            content = output.read(file.path)
            with target.open("ab") as local:
                local.write(content[have:])
            changed += 1
    return changed


def _follow(output_uri: str, mirror: Path, ended: threading.Event) -> None:
    last_error = None
    while not ended.is_set():
        try:
            copy_new(open_folder(output_uri, S3Access.from_environment(os.environ), create=True), mirror)
            last_error = None
        except (TrainerError, OSError) as error:
            if str(error) != last_error:
                last_error = str(error)
                logger.warning("%s", last_error)
        ended.wait(_POLL_SECONDS)


def _command(mirror: Path, *, port: int, prefix: str) -> list[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(mirror), "--bind_all"]
    # Its fast loader does not know that steps after a checkpoint are trained twice.
    command += ["--port", str(port), "--reload_interval", str(_RELOAD_SECONDS), "--load_fast=false"]
    return [*command, "--path_prefix", f"/{prefix.strip('/')}"] if prefix.strip("/") else command
