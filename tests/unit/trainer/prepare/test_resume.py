"""A preparation that is killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

IMAGES = 4000
SHARD = 500
SLICE_SECONDS = 0.005
"""For so long it works between two looks."""


class Finished(NamedTuple):
    """What a preparation said."""

    message: dict[str, Any]
    log: str

    @property
    def shards(self) -> dict[str, Any]:
        manifest = json.loads((Path(self.message["uri"].removeprefix("file://")) / "manifest.json").read_bytes())
        return {key: manifest[key] for key in ("version", "classes", "counts", "shards", "ignoredCounts")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thousands of small bitmaps, no two alike, in two classes; some are broken."""
    folder = tmp_path_factory.mktemp("source")
    buffer = io.BytesIO()
    Image.new("L", (32, 32)).save(buffer, "BMP")
    plain = bytearray(buffer.getvalue())
    for name in ("even", "odd"):
        (folder / name).mkdir()
    for number in range(IMAGES):
        plain[-8:] = number.to_bytes(8, "little")
        content = b"broken" if number % 100 == 0 else plain
        (folder / ("even", "odd")[number % 2] / f"{number:05}.bmp").write_bytes(content)
    return folder


class Preparation:
    """The command as a process of its own, on a store of its own."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.store = folder / "store"
        self._message = folder / "message.json"
        self._config = folder / "config.json"
        self._config.write_text(
            json.dumps(
                {
                    "kind": "prepare",
                    "name": "small",
                    "source": {"uri": f"file://{source}"},
                    "shards": {"images": SHARD},
                    "output": {"uri": f"file://{self.store}"},
                }
            )
        )
        (folder / "tmp").mkdir()
        self._environment = {
            **os.environ, "TERMINATION_LOG": str(self._message), "BLOOMERY_PORT": "0", "TMPDIR": str(folder / "tmp"),
        }  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bloomery_trainer", "prepare", str(self._config)]
        return subprocess.Popen(
            command, env=self._environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self) -> Finished:
        process = self.start()
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
        return Finished(json.loads(self._message.read_bytes()), log)

    def kill_once(self, seen: Callable[[], bool]) -> None:
        """Kills it as soon as its store shows what is waited for.

        While the store is looked at, it stands still with all its processes: else a busy machine looks too late.
        """
        process = self.start()
        deadline = time.monotonic() + 120
        while not seen():
            assert time.monotonic() < deadline
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(SLICE_SECONDS)
            assert process.poll() is None, "it ended before it could be killed"
            os.killpg(process.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGKILL)
        os.killpg(process.pid, signal.SIGCONT)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def files(self, pattern: str) -> list[Path]:
        return [path for path in self.store.glob(pattern) if path.is_file()]


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Preparation(source, tmp_path_factory.mktemp("undisturbed")).finish()


def test_images_that_were_checked_before_a_kill_are_not_read_again(
    source: Path, undisturbed: Finished, tmp_path: Path
) -> None:
    preparation = Preparation(source, tmp_path)
    preparation.kill_once(lambda: bool(preparation.files(".work/*/checks/*.jsonl")))
    checked = sum(len(path.read_text().splitlines()) for path in preparation.files(".work/*/checks/*.jsonl"))
    finished = preparation.finish()

    assert 0 < checked < IMAGES
    assert f"{checked} of {IMAGES} images were checked by an earlier run and are not read again" in finished.log
    assert finished.shards == undisturbed.shards


def test_shards_that_were_written_before_a_kill_are_not_written_again(
    source: Path, undisturbed: Finished, tmp_path: Path
) -> None:
    preparation = Preparation(source, tmp_path)
    preparation.kill_once(lambda: len(preparation.files(".work/*/*/train-*.json")) >= 2)
    folder = preparation.store / str(undisturbed.message["version"])
    shards = [folder / path.stem for path in preparation.files(".work/*/*/train-*.json")]
    written = {shard: shard.stat().st_mtime_ns for shard in shards}
    finished = preparation.finish()

    assert f"{IMAGES} of {IMAGES} images were checked by an earlier run" in finished.log
    assert finished.log.count("was written by an earlier run") == len(shards)
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == written
    assert finished.shards == undisturbed.shards


def test_killed_again_and_again_it_ends_the_same_and_leaves_no_work_files(
    source: Path, undisturbed: Finished, tmp_path: Path
) -> None:
    preparation = Preparation(source, tmp_path)
    for count in (1, 2, 3):
        preparation.kill_once(lambda least=count: len(preparation.files(".work/*/checks/*.jsonl")) >= least)
    preparation.kill_once(lambda: bool(preparation.files(".work/*/*/train-*.json")))
    finished = preparation.finish()

    assert finished.shards == undisturbed.shards
    assert [path.name for path in preparation.store.iterdir()] == [finished.message["version"]]


def test_half_a_file_of_a_write_that_was_killed_does_not_stay(source: Path, tmp_path: Path) -> None:
    preparation = Preparation(source, tmp_path)
    half = preparation.store / ".work" / "earlier" / "checks" / "0.jsonl#1"
    half.parent.mkdir(parents=True)
    half.write_text("[")
    finished = preparation.finish()

    assert [path.name for path in preparation.store.iterdir()] == [finished.message["version"]]


def test_an_image_that_changed_after_a_kill_is_looked_at_again(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in source.rglob("*.bmp"):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    preparation = Preparation(copy, tmp_path)
    preparation.kill_once(lambda: bool(preparation.files(".work/*/checks/*.jsonl")))
    checked = sorted(preparation.files(".work/*/checks/*.jsonl"))[0].read_text().splitlines()
    for line in checked[:7]:
        (copy / json.loads(line)[1]).write_bytes(b"not any more")
    before = sum(len(path.read_text().splitlines()) for path in preparation.files(".work/*/checks/*.jsonl"))
    finished = preparation.finish()

    assert f"{before - 7} of {IMAGES} images were checked by an earlier run" in finished.log
    assert finished.message["ignored"]["Corrupt"] in range(IMAGES // 100, IMAGES // 100 + 8)
    assert finished.message["ignored"]["Corrupt"] > IMAGES // 100
