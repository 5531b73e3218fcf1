"""A killed preparation resumes from its state, with the same result as an uninterrupted one."""

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

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.prepare.file_table import Inspection
from bloomery_trainer.prepare.resume import ResumeState
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.storage import S3Access, open_folder

IMAGES = 4000
SHARD = 500
SLICE_SECONDS = 0.005
"""Time that the process runs between two checks of its store."""


class Finished(NamedTuple):
    """The termination message and the log of a preparation."""

    message: dict[str, Any]
    log: str

    @property
    def shards(self) -> dict[str, Any]:
        manifest = json.loads((Path(self.message["uri"].removeprefix("file://")) / "manifest.json").read_bytes())
        return {key: manifest[key] for key in ("version", "classes", "counts", "shards", "ignoredCounts")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thousands of different small bitmaps in two classes; some are broken."""
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
    """The command as a separate process with its own store."""

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

    def kill_when(self, condition: Callable[[], bool]) -> None:
        """Kill it as soon as the condition holds.

        All its processes are stopped while the condition is checked: a busy machine would otherwise check too late.
        """
        process = self.start()
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            os.killpg(process.pid, signal.SIGCONT)
            time.sleep(SLICE_SECONDS)
            assert process.poll() is None, "it result before it could be killed"
            os.killpg(process.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGKILL)
        os.killpg(process.pid, signal.SIGCONT)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def files(self, pattern: str) -> list[Path]:
        return [path for path in self.store.glob(pattern) if path.is_file()]


@pytest.fixture(scope="module")
def uninterrupted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Preparation(source, tmp_path_factory.mktemp("uninterrupted")).finish()


def test_inspected_images_are_not_read_again_after_a_kill(
    source: Path, uninterrupted: Finished, tmp_path: Path
) -> None:
    preparation = Preparation(source, tmp_path)
    preparation.kill_when(lambda: bool(preparation.files(".work/*/checks/*.jsonl")))
    checked = sum(len(path.read_text().splitlines()) for path in preparation.files(".work/*/checks/*.jsonl"))
    finished = preparation.finish()

    assert 0 < checked < IMAGES
    assert f"{checked} of {IMAGES} images were checked by an earlier run and are not read again" in finished.log
    assert finished.shards == uninterrupted.shards


def test_complete_shards_are_not_written_again(source: Path, uninterrupted: Finished, tmp_path: Path) -> None:
    preparation = Preparation(source, tmp_path)
    preparation.kill_when(lambda: len(preparation.files(".work/*/*/train-*.json")) >= 2)
    folder = preparation.store / str(uninterrupted.message["version"])
    shards = [folder / path.stem for path in preparation.files(".work/*/*/train-*.json")]
    written = {shard: shard.stat().st_mtime_ns for shard in shards}
    finished = preparation.finish()

    assert f"{IMAGES} of {IMAGES} images were checked by an earlier run" in finished.log
    assert finished.log.count("was written by an earlier run") == len(shards)
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == written
    assert finished.shards == uninterrupted.shards


def test_repeated_kills_give_same_result_and_leave_no_state(
    source: Path, uninterrupted: Finished, tmp_path: Path
) -> None:
    preparation = Preparation(source, tmp_path)
    for count in (1, 2, 3):
        preparation.kill_when(lambda least=count: len(preparation.files(".work/*/checks/*.jsonl")) >= least)
    preparation.kill_when(lambda: bool(preparation.files(".work/*/*/train-*.json")))
    finished = preparation.finish()

    assert finished.shards == uninterrupted.shards
    assert [path.name for path in preparation.store.iterdir()] == [finished.message["version"]]


def test_partial_state_file_is_deleted(source: Path, tmp_path: Path) -> None:
    preparation = Preparation(source, tmp_path)
    half = preparation.store / ".work" / "earlier" / "checks" / "0.jsonl#1"
    half.parent.mkdir(parents=True)
    half.write_text("[")
    finished = preparation.finish()

    assert [path.name for path in preparation.store.iterdir()] == [finished.message["version"]]


def test_image_changed_after_a_kill_is_inspected_again(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in source.rglob("*.bmp"):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    preparation = Preparation(copy, tmp_path)
    preparation.kill_when(lambda: bool(preparation.files(".work/*/checks/*.jsonl")))
    checked = sorted(preparation.files(".work/*/checks/*.jsonl"))[0].read_text().splitlines()
    for line in checked[:7]:
        (copy / json.loads(line)[1]).write_bytes(b"not any more")
    before = sum(len(path.read_text().splitlines()) for path in preparation.files(".work/*/checks/*.jsonl"))
    finished = preparation.finish()

    assert f"{before - 7} of {IMAGES} images were checked by an earlier run" in finished.log
    assert finished.message["ignored"]["Corrupt"] in range(IMAGES // 100, IMAGES // 100 + 8)
    assert finished.message["ignored"]["Corrupt"] > IMAGES // 100


def test_state_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """Read the files that the release before ``ResumeState`` wrote, so that an upgrade resumes a preparation.

    The folder's name is a hash of the sources and the rules: a new field of these changes it, and is no error.
    """
    config = PrepareConfig.model_validate({
        "kind": "prepare",
        "name": "flowers",
        "source": {"uri": "s3://flowers/raw"},
        "append": [{"uri": "s3://flowers/more", "class": "roses"}],
        "rules": {"formats": ["jpg", "jpeg", "png", "bmp"]},
        "output": {"uri": f"file://{tmp_path}"},
    })  # fmt: skip
    state = tmp_path / ".work" / "aa1c6d4dd8654a8b"
    (state / "checks").mkdir(parents=True)
    digest = bytes(range(32))
    (state / "checks" / "d191603df22e40ab95b620430ead91b3.jsonl").write_text(
        f'[0, "roses/1.png", 1200, "etag-1", "{digest.hex()}", "png", null, null, null]\n'
        '[1, "2.jpg", 7, "etag-2", null, null, "\\u73ab\\u7470", "Corrupt", "not an image that can be read"]'
    )
    (state / "0123").mkdir()
    (state / "0123" / "train-00000.tar.json").write_text(
        json.dumps({"name": "train-00000.tar", "images": 20, "bytes": 4, "sha256": "ab" * 32})
    )
    (tmp_path / "0123").mkdir()
    (tmp_path / "0123" / "train-00000.tar").write_bytes(b"tar.")
    resume = ResumeState(open_folder(config.output.uri, S3Access.from_environment({})), config)

    assert list(resume.inspections()) == [
        [
            Inspection(0, "roses/1.png", 1200, "etag-1", digest, "png", None, None, None),
            Inspection(1, "2.jpg", 7, "etag-2", None, None, "玫瑰", "Corrupt", "not an image that can be read"),
        ]
    ]
    assert resume.find_shard("0123", "train-00000.tar") == Shard("train-00000.tar", 20, 4, "ab" * 32)
    assert resume.find_shard("0123", "train-00001.tar") is None
