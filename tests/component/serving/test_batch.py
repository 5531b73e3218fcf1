"""Batch predictions with real processes: answers as a service gives them, kills, shares, archives and a real store."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import obstore
import pytest
from PIL import Image

from testing.archives import ZipFile, write_zip
from testing.processes import free_port
from testing.servers import S3_PROGRAM, S3Server, running_store
from tests.component.serving.conftest import BLUE, GREEN, LABELS, RED, StartServer, encoded, picture
from tests.component.serving.test_not_finite import nan_for_red_images, write_changed_model

pytestmark = pytest.mark.feature("S22")

WAIT_SECONDS = 120.0
BUCKET = "photos"
KINDS = ("JPEG", "PNG", "BMP", "WEBP")


@dataclass(frozen=True)
class Ended:
    """The end of a run: its exit code, its termination message, and the predictions of all runs so far."""

    code: int
    message: dict[str, Any]
    output: Path

    @property
    def lines(self) -> list[str]:
        return [line for path in files_below(self.output, "predictions") for line in path.read_text().splitlines()]

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        return {entry["file"]: entry for entry in map(json.loads, self.lines)}

    @property
    def ignored(self) -> dict[str, str]:
        lines = (line for path in files_below(self.output, "ignored") for line in path.read_text().splitlines())
        return {entry["file"]: entry["reason"] for entry in map(json.loads, lines)}


def files_below(folder: Path, name: str) -> list[Path]:
    return sorted(path for path in (folder / name).rglob("*") if path.is_file())


@dataclass(frozen=True)
class Batch:
    """Starts the command as a pod does."""

    folder: Path
    model: Path

    def start(self, source: str, **settings: str) -> subprocess.Popen[bytes]:
        defaults = {
            "model_uri": f"file://{self.model}",
            "model_dir": str(self.folder / "models"),
            "source_uri": source,
            "output_uri": f"file://{self.folder}/out",
            "scratch_dir": str(self.folder),
            "progress_port": "0",
            "termination_log": str(self.folder / "termination-log"),
        }
        environment = {name.upper(): value for name, value in (defaults | settings).items()}
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "bloomery_serving", "batch"]
            return subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)

    def run(self, source: str, **settings: str) -> Ended:
        code = self.start(source, **settings).wait(WAIT_SECONDS)
        return Ended(code, json.loads((self.folder / "termination-log").read_text()), self.folder / "out")


@pytest.fixture
def batch(tmp_path: Path, model_folder: Path) -> Batch:
    return Batch(tmp_path, model_folder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3Server]:
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    with running_store(tmp_path, BUCKET) as server:
        yield server


def write_files(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return f"file://{folder}"


def photos(count: int) -> dict[str, bytes]:
    """Return images of noise in all formats, of several sizes and orientations."""
    noise = np.random.default_rng(7)
    files = {}
    for number in range(count):
        size = (int(noise.integers(40, 400)), int(noise.integers(40, 400)), 3)
        image = Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8))
        kind = KINDS[number % len(KINDS)]
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1
        options = {"exif": exif, "quality": 80} if kind == "JPEG" else {}
        files[f"{number % 3}/{number}.{kind.lower()}"] = encoded(image, kind, **options)
    return files


def small_pictures(count: int) -> dict[str, bytes]:
    colours = (RED, GREEN, BLUE)
    files = {colour: picture(colour, size=(8, 8)) for colour in colours}
    return {f"{number % 10}/{number:05}.png": files[colours[number % 3]] for number in range(count)}


def test_entries_are_those_of_the_service_byte_for_byte(
    batch: Batch, start_server: StartServer, tmp_path: Path
) -> None:
    files = photos(24) | {"damaged.jpg": photos(1)["0/0.jpeg"][:200], "text.png": b"no image"}

    ended = batch.run(write_files(tmp_path / "source", files))

    assert ended.code == 0, (tmp_path / "log").read_text()
    server = start_server()
    answered: list[str] = []
    refused: dict[str, str] = {}
    for name, content in sorted(files.items()):
        answer = server.client.post("/predict", files=[("image", (name, content)), ("image", ("x", content))])
        entry = answer.json()["predictions"][0]
        if "error" in entry:
            refused[name] = entry["error"]["code"]
        else:
            del entry["id"]
            answered.append(json.dumps(entry, ensure_ascii=False))
    assert sorted(ended.lines) == sorted(answered)
    assert ended.ignored == refused == {"damaged.jpg": "DamagedImage", "text.png": "NotAnImage"}
    assert ended.message["images"] == 24
    assert ended.message["ignored"] == {"DamagedImage": 1, "NotAnImage": 1}


def test_run_that_is_killed_three_times_loses_and_doubles_no_image(batch: Batch, tmp_path: Path) -> None:
    files = small_pictures(2600)
    source = write_files(tmp_path / "source", files)
    state = tmp_path / "out/state/00000.json"

    parts: list[int] = []
    for _ in range(3):
        process = batch.start(source, output_folders="true")
        wait_for(lambda: read_parts(state) > (parts[-1] if parts else 0), process)
        process.kill()
        process.wait()
        parts.append(read_parts(state))
    ended = batch.run(source, output_folders="true")

    assert parts == sorted(parts)
    assert parts[-1] < 6, "it was done before the last kill"
    assert ended.code == 0
    assert Counter(json.loads(line)["file"] for line in ended.lines) == Counter(list(files))
    assert len(files_below(ended.output, "folders")) == len(files)
    assert (ended.message["images"], ended.message["total"]) == (2600, 2600)


def read_parts(state: Path) -> int:
    return int(json.loads(state.read_text())["parts"]) if state.exists() else 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.001)


def test_terminated_run_ends_at_once_and_a_later_one_goes_on(batch: Batch, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", small_pictures(2600))
    process = batch.start(source)
    wait_for(lambda: read_parts(tmp_path / "out/state/00000.json") > 0, process)
    process.terminate()

    assert process.wait(WAIT_SECONDS) == 143
    assert json.loads((tmp_path / "termination-log").read_text())["error"]["reason"] == "Terminated"
    assert len(batch.run(source).lines) == 2600


def test_processes_share_the_images_and_the_last_one_reports_all(batch: Batch, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", small_pictures(300) | {"notes.txt": b"x"})

    first, second = (
        batch.run(source, batch_pods="2", job_completion_index=str(index), batch_uid="u1") for index in (1, 0)
    )

    assert first.code == second.code == 0
    assert 0 < first.message["images"] < second.message["images"] == 300
    assert second.message["ignored"] == {"Format": 1}
    assert len(second.entries) == len(second.lines) == 300


def test_files_that_come_later_wait_for_another_prediction(batch: Batch, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", small_pictures(20))
    batch.run(source)
    write_files(tmp_path / "source", {"late.png": picture(RED)})

    assert batch.run(source).message["total"] == 20


def test_images_of_a_store_are_predicted_into_another_one(batch: Batch, store: S3Server, tmp_path: Path) -> None:
    """Each store is read and written by keys of its own."""
    files = {"in/红/a b.png": picture(RED), "in/green.png": picture(GREEN), "in/c/broken.png": b"x"}
    store.put(BUCKET, files)
    keys = {name.lower(): value for name, value in store.environment("SOURCE_").items()}
    keys |= {name.lower(): value for name, value in store.environment("OUTPUT_STORE_").items()}

    ended = batch.run(f"s3://{BUCKET}/in", output_uri=f"s3://{BUCKET}/out", output_folders="true", **keys)

    assert ended.code == 0, (tmp_path / "log").read_text()
    bucket = store.bucket(BUCKET)
    paths = [entry["path"] for page in obstore.list(bucket, "out") for entry in page]
    content = bytes(obstore.get(bucket, "out/predictions/00000-00000.jsonl").bytes()).decode()
    labels = {entry["file"]: entry["label"] for entry in map(json.loads, content.splitlines())}
    assert labels == {"红/a b.png": "red", "green.png": "green"}
    assert "out/folders/green/green.png" in paths
    assert sum(path.startswith("out/folders/red/") for path in paths) == 1
    assert "out/ignored/00000-00000.jsonl" in paths


def test_images_of_an_archive_with_names_of_an_old_encoding_are_predicted(batch: Batch, tmp_path: Path) -> None:
    names = {"花园里的红色花朵/1.png", "森林中的绿色树叶/1.png"}
    packed = [ZipFile(name=f"照片/{name}".encode("gbk"), data=picture(GREEN)) for name in sorted(names)]
    path = write_zip(tmp_path / "images.zip", [*packed, ZipFile(name=b"../escape.png", data=picture(RED))])

    ended = batch.run(f"file://{path}", source_encoding="gbk")

    assert ended.code == 0, (tmp_path / "log").read_text()
    assert set(ended.entries) == names
    assert list(ended.ignored.values()) == ["BadName"]


def test_csv_has_a_row_per_image_and_a_column_per_class(batch: Batch, tmp_path: Path) -> None:
    ended = batch.run(write_files(tmp_path / "source", small_pictures(6)), output_format="CSV")

    (path,) = files_below(ended.output, "predictions")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert path.suffix == ".csv"
    assert Counter(row["label"] for row in rows) == Counter(dict.fromkeys(LABELS, 2))
    assert all(float(row[f"scores.{row['label']}"]) > 0.5 for row in rows)


def test_unsure_images_are_unknown_and_in_no_folder_of_a_class(batch: Batch, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"red.png": picture(RED), "grey.png": picture((90, 90, 90))})

    ended = batch.run(source, answer_min_confidence="0.6", output_folders="true")

    assert ended.entries["grey.png"]["unknown"] is True
    assert ended.entries["red.png"]["label"] == "red"
    copies = [path for name in ("folders", "unknown") for path in files_below(ended.output, name)]
    assert [str(path.relative_to(ended.output)) for path in copies] == ["folders/red/red.png", "unknown/grey.png"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"source_uri": "file:///nowhere"}, "SourceNotFound"),
        ({"source_uri": "https://example.com/photos"}, "SourceRefused"),
        ({"model_uri": "file:///nowhere"}, "ModelNotFound"),
        ({"model_digest": "sha256:0"}, "DigestMismatch"),
        ({"answer_precision": "0.9"}, "NoThresholds"),
        ({"output_format": "Parquet"}, "BadSettings"),
        ({"job_completion_index": "1"}, "BadSettings"),
    ],
)
def test_mistake_ends_the_run_for_good(batch: Batch, tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    source = write_files(tmp_path / "source", {"red.png": picture(RED)})

    ended = batch.run(source, **settings)

    assert (ended.code, ended.message["error"]["reason"]) == (2, reason)


def test_output_inside_the_source_is_refused(batch: Batch, tmp_path: Path) -> None:
    source = write_files(tmp_path / "source", {"red.png": picture(RED)})

    ended = batch.run(source, output_uri=f"{source}/predictions")

    assert (ended.code, ended.message["error"]["reason"]) == (2, "BadSettings")


def test_empty_source_fails_and_one_without_images_lists_its_files(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert batch.run(f"file://{tmp_path}/empty").message["error"]["reason"] == "NoImages"
    ended = batch.run(write_files(tmp_path / "texts", {"a.txt": b"x"}))
    assert (ended.code, ended.message["images"], ended.ignored) == (0, 0, {"a.txt": "Format"})


def test_progress_is_answered_while_the_images_are_predicted(batch: Batch, tmp_path: Path) -> None:
    source, port = write_files(tmp_path / "source", small_pictures(3000)), free_port()
    process = batch.start(source, progress_port=str(port))
    seen: list[dict[str, Any]] = []

    def sees_images() -> bool:
        try:
            seen.append(httpx.get(f"http://127.0.0.1:{port}/progress").json())
        except httpx.TransportError:
            return False
        return seen[-1].get("images", 0) > 0

    wait_for(sees_images, process)

    assert seen[-1]["stage"] == "predicting"
    assert seen[-1]["total"] == 3000
    assert process.wait(WAIT_SECONDS) == 0


def test_images_for_which_the_model_gives_nan_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = write_changed_model(tmp_path / "model", nan_for_red_images())
    files = {f"{number}.png": picture(RED) for number in range(5)} | {"green.png": picture(GREEN)}

    ended = Batch(tmp_path, model).run(write_files(tmp_path / "source", files))

    assert (ended.code, ended.message["images"]) == (0, 1), (tmp_path / "log").read_text()
    assert ended.message["ignored"] == {"ResultNotFinite": 5}
