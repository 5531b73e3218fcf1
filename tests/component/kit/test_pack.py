"""Packing kits, and starting one where Python is: no image is needed for that."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from tests.component.kit.conftest import Pack
from tests.component.serving.conftest import write_model
from tests.component.serving.test_explain import class_maps, red_and_blue, write_explained

pytestmark = pytest.mark.feature("S7")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def small_base(tmp_path: Path) -> Path:
    """The place of a base, whose own files these tests do not need."""
    folder = tmp_path / "base" / "linux-cpu"
    folder.mkdir(parents=True)
    (folder / "start.sh").write_text("#!/bin/sh\n")
    (folder / "start.sh").chmod(0o755)
    return folder.parent


@pytest.fixture
def unpacked(small_base: Path, pack: Pack, tmp_path: Path) -> Path:
    """An unpacked kit."""
    done = pack("--base", small_base, "--output", tmp_path / "kit.zip", DISPLAY_NAME="Farben 颜色")
    assert done.returncode == 0, done.stderr
    with ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "colours-kit"


@pytest.fixture
def start(unpacked: Path) -> Iterator[Start]:
    """Start the kit with arguments; it ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(*words: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bloomery_serving", "start", *words]
        process = subprocess.Popen(
            command,
            cwd=unpacked,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def start_in() -> Iterator[Callable[[Path], int]]:
    """Start the kit in a folder; return its port once it answers."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(folder: Path) -> int:
        port = _free_port()
        command = [sys.executable, "-m", "bloomery_serving", "start", "--port", str(port)]
        processes.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE))
        output = processes[-1].stdout
        assert output is not None
        assert b"Loading" in output.readline()
        assert b"/upload" in output.readline()
        return port

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_kit_is_one_folder_with_model_script_and_manifest(unpacked: Path, tmp_path: Path) -> None:
    inside = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert inside == {"start.sh", "kit.json", "model/model.onnx", "model/labels.txt", "model/preprocess.json"}
    with ZipFile(tmp_path / "kit.zip") as archive:
        assert archive.getinfo("colours-kit/start.sh").external_attr >> 16 & 0o111 == 0o111
    manifest = json.loads((unpacked / "kit.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["run_id"] == "r1"
    assert manifest["digest"].startswith("sha256:")


@pytest.mark.feature("T28")
@pytest.mark.parametrize("explain", ["true", ""])
def test_kit_explains_if_its_service_does(
    small_base: Path, pack: Pack, start_in: Callable[[Path], int], tmp_path: Path, explain: str
) -> None:
    model = write_explained(tmp_path / "source", class_maps().SerializeToString())
    settings = {"MODEL_URI": model.as_uri()} | ({"EXPLAIN": explain} if explain else {})
    assert pack("--base", small_base, "--output", tmp_path / "kit.zip", **settings).returncode == 0
    with ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
    assert (tmp_path / "colours-kit/model/explain.onnx").exists() == bool(explain)

    address = f"http://localhost:{start_in(tmp_path / 'colours-kit')}"
    answer = httpx.post(f"{address}/explain", content=red_and_blue(), timeout=30)

    assert (answer.status_code, answer.headers["content-type"]) == (
        (200, "image/png") if explain else (404, "application/json")
    )


@pytest.mark.feature("T28")
def test_kit_with_another_explanation_does_not_start(small_base: Path, pack: Pack, tmp_path: Path) -> None:
    model = write_explained(tmp_path / "source", class_maps().SerializeToString())
    pack("--base", small_base, "--output", tmp_path / "kit.zip", MODEL_URI=model.as_uri(), EXPLAIN="true")
    with ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "colours-kit/model/explain.onnx").write_bytes(class_maps(factor=-1).SerializeToString())
    command = [sys.executable, "-m", "bloomery_serving", "start", "--port", str(_free_port())]

    done = subprocess.run(command, cwd=tmp_path / "colours-kit", capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "explain.onnx is missing or is not as it was packed" in done.stderr


def test_kit_goes_to_the_standard_output_alone(small_base: Path, pack: Pack) -> None:
    done = pack("--base", small_base, "--output", "-")
    assert done.returncode == 0, done.stderr
    with ZipFile(BytesIO(done.stdout)) as archive:
        assert archive.testzip() is None
        assert "colours-kit/kit.json" in archive.namelist()


def test_started_kit_prints_its_address_answers_and_stops(start: Start, picture: Path) -> None:
    port = _free_port()
    # A user's own environment is not for the server.
    process = start("--port", str(port), PORT="1", API_KEYS_DIR="/nowhere", SERVICE_NAME="other")
    assert process.stdout is not None
    assert process.stdout.readline() == "Loading Farben 颜色 …\n"
    address = f"http://localhost:{port}"
    assert f"Open {address}/upload" in process.stdout.readline()
    with picture.open("rb") as file:
        answer = httpx.post(f"{address}/predict", files={"image": file}, timeout=30)
    assert (answer.status_code, answer.json()["label"], answer.headers["x-run-id"]) == (200, "green", "r1")
    page = httpx.get(f"{address}/upload")
    assert page.status_code == 200
    assert "Farben 颜色" in page.text
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "Stopped.\n"
    assert process.wait(20) == 0


def test_kit_listens_on_this_machine_alone_by_default(start: Start) -> None:
    port = _free_port()
    process = start("--port", str(port))
    assert process.stdout is not None
    _until_open(process)
    assert _listeners(port) == ["127.0.0.1"]
    port = _free_port()
    process = start("--port", str(port), "--host", "0.0.0.0")
    _until_open(process)
    assert _listeners(port) == ["0.0.0.0"]


def test_port_in_use_is_reported_at_once(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start("--port", str(port))
        printed, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert printed == f"Port {port} is taken by another program. Choose another one, as in: ./start.sh --port 8987\n"


def test_invalid_port_and_foreign_address_are_refused(start: Start) -> None:
    printed, _ = start("--port", "99999").communicate(timeout=20)
    assert "'99999' is not a port: a number from 1 to 65535" in printed
    printed, _ = start("--host", "192.0.2.1").communicate(timeout=20)
    assert printed.startswith("192.0.2.1 is no address of this machine.")


def test_damaged_kit_is_not_served(unpacked: Path, start: Start) -> None:
    (unpacked / "model" / "labels.txt").write_text("red\nblue\ngreen\n")
    process = start("--port", str(_free_port()))
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert printed == "model/labels.txt is missing or is not as it was packed. Unpack the zip again.\n"


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ((), {"MODEL_URI": "file:///no/such/folder"}, "There is no folder /no/such/folder."),
        ((), {"MODEL_URI": "ftp://somewhere"}, "'ftp://somewhere'; it must be s3://"),
        ((), {"MODEL_URI": ""}, "Which model? Give --model URI, or set MODEL_URI"),
        ((), {"MODEL_DIGEST": "sha256:1"}, "but sha256:1 is required"),
        (("--platform", "mac"), {}, "invalid choice: 'mac' (choose from 'linux', 'windows')"),
        (("--flavour", "nvidia"), {}, "has no folder linux-nvidia"),
    ],
)
def test_refused_pack_explains_why_and_leaves_no_file(
    words: tuple[str, ...], environment: dict[str, str], message: str, small_base: Path, pack: Pack, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "kit.zip"
    target.parent.mkdir()
    done = pack("--base", small_base, "--output", target, *words, **environment)
    assert done.returncode != 0
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert list(target.parent.iterdir()) == []


def test_output_that_cannot_be_written_is_reported(small_base: Path, pack: Pack) -> None:
    done = pack("--base", small_base, "--output", "/no/such/folder/kit.zip")
    assert done.returncode == 1
    message = "The kit cannot be written to /no/such/folder/kit.zip: No such file or directory.\n"
    assert done.stderr.decode() == message


def _until_open(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    process.stdout.readline()
    return process.stdout.readline()


def _listeners(port: int) -> list[str]:
    """The local IPv4 addresses on which somebody listens at a port (proc(5), net/tcp)."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        addresses = [row[1] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
        if addresses:
            return [socket.inet_ntoa(bytes.fromhex(place.split(":")[0])[::-1]) for place in addresses]
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.feature("S17")
def test_a_kit_keeps_the_precision_and_the_models_thresholds(small_base: Path, pack: Pack, tmp_path: Path) -> None:
    folder = tmp_path / "precise"
    folder.mkdir()
    document = {"format": 1, "files": write_model(folder), "thresholds": {"precision": {"0.95": [0.6, None, 0.6]}}}
    (folder / "metadata.json").write_text(json.dumps(document))
    zip_path = tmp_path / "kit.zip"
    done = pack("--base", small_base, "--output", zip_path, MODEL_URI=f"file://{folder}", ANSWER_PRECISION="0.95")
    assert done.returncode == 0, done.stderr
    with ZipFile(zip_path) as archive:
        statistics = json.loads(archive.read("colours-kit/model/statistics.json"))
        settings = json.loads(archive.read("colours-kit/kit.json"))["settings"]
    assert statistics["thresholds"] == document["thresholds"]
    assert settings["answer_precision"] == 0.95


@pytest.mark.feature("S17")
def test_no_kit_is_packed_whose_server_lacks_thresholds(small_base: Path, pack: Pack, tmp_path: Path) -> None:
    done = pack("--base", small_base, "--output", tmp_path / "kit.zip", ANSWER_PRECISION="0.95")
    assert done.returncode == 1
    assert b"evaluateOnly" in done.stderr
    assert not (tmp_path / "kit.zip").exists()
