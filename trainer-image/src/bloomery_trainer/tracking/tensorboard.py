"""TensorBoard's event files of a run: written here, carried to the output folder by a thread of their own.

They also are the record of last resort: what MLflow could not take is read back from them later. Nothing here
ever fails a run or holds it up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from bloomery_trainer.output import EVENTS
from bloomery_trainer.storage import Folder
from bloomery_trainer.tracking.logger import no_run_document

logger = logging.getLogger(__name__)

_UPLOAD_SECONDS = 60.0
_LAST_UPLOAD_SECONDS = 90.0
_QUEUE = 100_000
"""Metrics that may wait for the disk before logging blocks."""


@dataclass(frozen=True)
class Scalar:
    """One value of a metric, as it was logged; ``time`` in seconds since 1970."""

    name: str
    step: int
    value: float
    time: float


class TensorBoardLogger:
    """One process's event file in a local folder, and its copy below ``tensorboard/`` of the output folder."""

    def __init__(self, folder: Path, output: Folder, *, upload_seconds: float = _UPLOAD_SECONDS) -> None:
        self._folder = folder
        self._output = output
        self._upload_seconds = upload_seconds
        self._writer: SummaryWriter | None = None
        self._uploaded_sizes: dict[str, int] = {}
        self._closing = threading.Event()
        self._uploading = threading.Lock()
        self._complaints: set[str] = set()
        folder.mkdir(exist_ok=True)
        self._thread = threading.Thread(target=self._upload_until_closed, name="tensorboard", daemon=True)
        self._thread.start()

    def begin(self, step: int) -> None:
        """Prepare for the steps after ``step``; what an earlier process logged of later steps is void."""
        with self._quietly("begin"):
            # Local writing is waited for only when very much of it waits already.
            self._writer = SummaryWriter(str(self._folder), purge_step=step + 1, max_queue=_QUEUE)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics of a step."""
        if self._writer is None:
            self.begin(step - 1)
        with self._quietly("log to"):
            for name, value in metrics.items():
                assert self._writer is not None
                self._writer.add_scalar(name, value, step)

    def complete(self) -> None:
        """Bring everything to the output folder, and what earlier processes left there to the local one."""
        self._upload()
        with self._quietly("fetch"):
            for path in fetch_events(self._output, self._folder):
                self._uploaded_sizes[path.name] = path.stat().st_size

    def run_document(self) -> dict[str, str | None]:
        """Return no ids: these files are no run in MLflow."""
        return no_run_document()

    def close(self, status: str) -> None:
        """Bring the last of it to the output folder, if that does not take too long."""
        del status
        self._closing.set()
        self._thread.join(_LAST_UPLOAD_SECONDS)

    def _upload_until_closed(self) -> None:
        while not self._closing.wait(self._upload_seconds):
            self._upload()
        self._upload()
        with self._quietly("close"):
            if self._writer is not None:
                self._writer.close()

    def _upload(self) -> None:
        with self._uploading, self._quietly("keep"):
            if self._writer is not None:
                self._writer.flush()
            for path in self._folder.iterdir():
                content = path.read_bytes()
                if self._uploaded_sizes.get(path.name) != len(content):
                    self._output.write(f"{EVENTS}/{path.name}", content)
                    self._uploaded_sizes[path.name] = len(content)

    @contextmanager
    def _quietly(self, what: str) -> Iterator[None]:
        """Log the first failure in such blocks, and ignore the others."""
        try:
            yield
        except Exception as error:
            if what not in self._complaints:
                self._complaints.add(what)
                logger.warning("could not %s TensorBoard's events: %s", what, error)


def fetch_events(output: Folder, folder: Path) -> list[Path]:
    """Copy the event files of an output folder that are not there yet to a local folder; return their copies."""
    copies = []
    for file in output.list(EVENTS):
        target = folder / Path(file.path).name
        if not target.exists():
            output.download(file.path, target)
            copies.append(target)
    return copies


def read_events(folder: Path) -> Iterator[Scalar]:
    """Return all values in a folder of event files; of steps that were trained twice, the later ones."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            yield Scalar(name, int(event.step), float(event.value), float(event.wall_time))
