"""TensorBoard's event files of a run: in the output folder while it trains, and on a page."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bloomery_trainer.commands.tensorboard import copy_new
from bloomery_trainer.storage import Folder, S3Access, open_folder
from bloomery_trainer.tracking.tensorboard import TensorBoardLogger, fetch_events, read_events

pytestmark = pytest.mark.feature("T7")

ACCESS = S3Access.from_environment({})


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(f"file://{tmp_path}/output", ACCESS, create=True)


def read_scalars(output: Folder, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars that a reader of the output folder gets."""
    folder.mkdir()
    fetch_events(output, folder)
    values: dict[str, list[tuple[int, float]]] = {}
    for scalar in read_events(folder):
        values.setdefault(scalar.name, []).append((scalar.step, scalar.value))
    return values


def test_every_metric_reaches_the_output_folder(output: Folder, tmp_path: Path) -> None:
    events = TensorBoardLogger(tmp_path / "events", output)
    events.begin(0)
    events.log({"train/loss": 0.5, "train/learning_rate": 0.25}, 1)
    events.log({"train/loss": 0.25}, 2)
    events.close("FINISHED")

    assert read_scalars(output, tmp_path / "read") == {
        "train/loss": [(1, 0.5), (2, 0.25)],
        "train/learning_rate": [(1, 0.25)],
    }


def test_they_are_there_while_the_training_goes_on(output: Folder, tmp_path: Path) -> None:
    events = TensorBoardLogger(tmp_path / "events", output, upload_seconds=0.05)
    events.log({"train/loss": 0.5}, 1)
    until(lambda: bool(list(output.list("tensorboard"))))
    events.close("FINISHED")


def test_steps_that_a_pod_did_again_are_there_once(output: Folder, tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path / "first", output)
    first.begin(0)
    for step in range(1, 9):
        first.log({"train/loss": 8.0}, step)
    first.close("FINISHED")
    # The last checkpoint was at step 6. TensorBoard goes by the seconds in the names of the files.
    time.sleep(1.1)
    second = TensorBoardLogger(tmp_path / "second", output)
    second.begin(6)
    for step in range(7, 11):
        second.log({"train/loss": 9.0}, step)
    second.close("FINISHED")

    assert read_scalars(output, tmp_path / "read")["train/loss"] == [
        *((step, 8.0) for step in range(1, 7)),
        *((step, 9.0) for step in range(7, 11)),
    ]


def test_a_store_that_is_gone_fails_nothing(output: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "output").rmdir()
    (tmp_path / "output").write_text("a file where the folder was")
    events = TensorBoardLogger(tmp_path / "events", output, upload_seconds=0.05)
    events.log({"train/loss": 0.5}, 1)
    events.complete()
    events.close("FINISHED")

    assert len([record for record in caplog.records if "could not keep" in record.message]) == 1


def test_what_has_grown_is_extended_in_place(output: Folder, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    output.write("tensorboard/events.1", b"abc")
    assert copy_new(output, mirror) == 1
    number = (mirror / "events.1").stat().st_ino
    output.write("tensorboard/events.1", b"abcdef")

    assert copy_new(output, mirror) == 1
    assert (mirror / "events.1").read_bytes() == b"abcdef"
    assert (mirror / "events.1").stat().st_ino == number
    assert copy_new(output, mirror) == 0


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], str]]]:
    """Starts the command on the output folder and gives its process and address."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(uri: str, prefix: str) -> tuple[subprocess.Popen[bytes], str]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "bloomery_trainer", "tensorboard", uri, "--port", str(port)]
        with (tmp_path / "board.log").open("wb") as log:
            process = subprocess.Popen([*command, "--prefix", prefix], stdout=log, stderr=log, env=dict(os.environ))
        processes.append(process)
        return process, f"http://127.0.0.1:{port}{prefix}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_tensorboard_serves_under_a_prefix_and_ends_quickly(
    output: Folder, tmp_path: Path, board: Callable[..., tuple[subprocess.Popen[bytes], str]]
) -> None:
    events = TensorBoardLogger(tmp_path / "events", output)
    events.begin(0)
    events.log({"train/loss": 0.5}, 1)
    events.close("FINISHED")
    process, address = board(f"file://{tmp_path}/output", "/demo/flowers")

    until(lambda: "train/loss" in tags(address), seconds=90)
    with urllib.request.urlopen(f"{address}/", timeout=10) as page:
        assert re.search(rb"<title>TensorBoard", page.read())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def test_a_training_that_has_not_begun_has_a_board_that_waits(
    tmp_path: Path, board: Callable[..., tuple[subprocess.Popen[bytes], str]]
) -> None:
    process, address = board(f"file://{tmp_path}/nothing-yet", "")

    until(lambda: tags(address) == {}, seconds=90)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def tags(address: str) -> dict[str, object]:
    """The curves that the board shows; something else while it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=10) as answer:
            runs = json.load(answer)
            return dict(next(iter(runs.values()), {}))
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return {"no answer": True}


def until(reached: Callable[[], bool], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)
