"""The ``prepare`` command with two real S3 servers: one for the store, one for the images."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import obstore
import pytest
from PIL import Image

from testing.archives import ENCRYPTED_FLAG, ZipFile, write_tar_gz, write_zip
from testing.processes import free_port
from testing.servers import S3_PROGRAM, S3Server


class Finished(NamedTuple):
    """The exit code, the termination message and the log of a preparation."""

    code: int
    message: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, S3Server]]:
    """Two servers with keys of their own: the store, and where the images lie."""
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    folder = tmp_path_factory.mktemp("s3")
    servers = [S3Server(free_port(), key, folder / key, folder / f"{key}.log") for key in ("store", "images")]
    for server in servers:
        server.start()
    servers[0].bucket("store")
    yield servers[0], servers[1]
    for server in servers:
        server.kill()


def image(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def folders() -> dict[str, bytes]:
    return {f"raw/{'美食/凉皮' if number % 2 else 'roses'}/{number}.png": image(number) for number in range(50)}


def pairs() -> dict[str, bytes]:
    texts = {f"raw/{number}.txt": ("美食/凉皮" if number % 2 else "roses").encode() for number in range(50)}
    return {**{f"raw/{number}.png": image(number) for number in range(50)}, **texts}


def splits() -> dict[str, bytes]:
    return {
        name.replace("raw/", f"raw/{'validation' if number % 10 < 2 else 'train'}/"): content
        for number, (name, content) in enumerate(folders().items())
    }


def zipped() -> dict[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in folders().items():
            archive.writestr(name, content)
    return {"raw.zip": buffer.getvalue()}


class Command:
    """The command, with its document and its environment."""

    def __init__(self, folder: Path, environment: dict[str, str], config: dict[str, Any]) -> None:
        self._message = folder / "message.json"
        self._config = folder / "config.json"
        self._config.write_text(json.dumps(config), encoding="utf-8")
        foreign = ("AWS_", "SOURCE_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        process = {"TERMINATION_LOG": str(self._message), "BLOOMERY_PORT": "0", "TMPDIR": str(folder)}
        self._environment = {**own, **environment, **process}

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bloomery_trainer", "prepare", str(self._config)]
        return subprocess.Popen(command, env=self._environment, stderr=subprocess.PIPE, text=True)

    def finish(self) -> Finished:
        process = self.start()
        _, log = process.communicate(timeout=300)
        return Finished(process.returncode, json.loads(self._message.read_bytes()), log)


@pytest.fixture
def command(gateways: tuple[S3Server, S3Server], tmp_path: Path) -> Callable[..., Command]:
    """Prepares from the second server to the first."""
    store, images = gateways

    def make(uri: str, environment: dict[str, str] | None = None, **changes: Any) -> Command:
        config = {
            "kind": "prepare",
            "name": "flowers",
            "source": {"uri": uri},
            "output": {"uri": f"s3://store/{tmp_path.name}"},
            **changes,
        }
        own = images.environment("SOURCE_") if environment is None else environment
        return Command(tmp_path, {**store.environment(), **own}, config)

    return make


@pytest.mark.feature("D1")
@pytest.mark.feature("D2")
@pytest.mark.feature("D3")
@pytest.mark.feature("D4")
@pytest.mark.feature("D6")
@pytest.mark.feature("D11")
@pytest.mark.parametrize(
    ("bucket", "files", "uri"),
    [
        ("folders", folders, "s3://folders/raw"),
        ("splits", splits, "s3://splits/raw"),
        ("pairs", pairs, "s3://pairs/raw"),
        ("zipped", zipped, "s3://zipped/raw.zip"),
    ],
)
def test_every_layout_is_read_from_a_store_with_its_own_keys(
    gateways: tuple[S3Server, S3Server],
    command: Callable[..., Command],
    bucket: str,
    files: Callable[[], dict[str, bytes]],
    uri: str,
    tmp_path: Path,
) -> None:
    gateways[1].put(bucket, files())
    result = command(uri).finish()

    assert result.code == 0, result.log
    assert [(entry["name"], entry["train"] + entry["validation"]) for entry in result.message["classes"]] == [
        ("roses", 25), ("美食/凉皮", 25),
    ]  # fmt: skip
    assert all(entry["validation"] for entry in result.message["classes"])
    entries = [entry for page in obstore.list(gateways[0].bucket("store"), tmp_path.name) for entry in page]
    assert {entry["path"].rpartition("/")[2] for entry in entries} == {
        "train-00000.tar", "validation-00000.tar", "manifest.json", "ignored.jsonl", "quality.jsonl", "report.html",
        "splits.txt",
    }  # fmt: skip


@pytest.mark.feature("D4")
@pytest.mark.feature("D6")
@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz"])
def test_archive_with_korean_names_becomes_their_classes(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command], tmp_path: Path, name: str
) -> None:
    files = [
        (f"{('개', '고양이', '토끼')[number % 3]}/사진_{number}.png".encode("cp949"), image(number))
        for number in range(60)
    ]
    encrypted = ZipFile(name="개/비밀.png".encode("cp949"), data=b"1", flags=ENCRYPTED_FLAG)
    if name.endswith(".zip"):
        path = write_zip(tmp_path / name, [*(ZipFile(name=path, data=data) for path, data in files), encrypted])
    else:
        path = write_tar_gz(tmp_path / name, files)
    gateways[1].put("pets", {name: path.read_bytes()})
    result = command(f"s3://pets/{name}").finish()

    assert result.code == 0, result.log
    assert [entry["name"] for entry in result.message["classes"]] == ["개", "고양이", "토끼"]
    assert (
        f"the names in s3://pets/{name} do not declare their encoding: they were read as cp949"
        in (result.message["warnings"][0])
    )
    assert result.message["ignored"] == ({"BadMember": 1} if name.endswith(".zip") else {})


@pytest.mark.feature("D1")
def test_keys_that_are_no_paths_are_junk_or_left_out(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command], tmp_path: Path
) -> None:
    gateways[1].put("litter", folders())
    raw = gateways[1].folder / "litter" / "raw"
    for name in ("Icon\r", "roses/Icon\r", "roses/line\nbreak.png", "roses/tab\t.png"):
        # As a program that writes with another client does.
        (raw / name).write_bytes(image(99))
    result = command("s3://litter/raw", exclude=["roses/tab*"]).finish()

    assert result.code == 0, result.log
    assert result.message["images"] == 50
    assert result.message["ignored"] == {"BadName": 1, "Excluded": 1}
    entries = obstore.get(gateways[0].bucket("store"), f"{tmp_path.name}/{result.message['version']}/ignored.jsonl")
    assert {json.loads(line)["key"] for line in bytes(entries.bytes()).splitlines()} == {
        "roses/line\\nbreak.png", "roses/tab\\t.png",
    }  # fmt: skip


@pytest.mark.feature("D3")
def test_label_texts_in_gbk_and_utf16_name_their_classes(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command]
) -> None:
    marked = {
        name: ("\ufeff" + content.decode()).encode("utf-16le") for name, content in pairs().items() if ".txt" in name
    }
    plain = {name: content.decode().encode("gbk") for name, content in pairs().items() if ".txt" in name}
    half = dict(list(marked.items())[:25])
    gateways[1].put("texts", {**pairs(), **plain, **half, "raw/0.txt": b"roses,tulips"})
    result = command("s3://texts/raw").finish()

    assert result.code == 0, result.log
    assert [entry["name"] for entry in result.message["classes"]] == ["roses", "美食/凉皮"]
    assert (result.message["images"], result.message["ignored"]) == (49, {"BadLabel": 1})


def mixed_splits() -> dict[str, bytes]:
    """Folders named by habit, with two folders and the litter of a file server around them."""
    files = {
        name.replace("raw/", f"raw/chest/chest/{'Valid' if number % 10 < 2 else 'TRAIN'}/").replace(
            ".png", ".jfif"
        ): content
        for number, (name, content) in enumerate(folders().items())
    }
    litter = ("raw/@eaDir/1.jpg", "raw/chest/$RECYCLE.BIN/1.jpg", "raw/chest/chest/TRAIN/.DS_Store")
    return {**files, **dict.fromkeys(litter, b"x"), "raw/README.md": b"x"}


@pytest.mark.feature("D1")
@pytest.mark.feature("D8")
def test_splits_of_other_names_inside_folders_are_read_from_a_store(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command], tmp_path: Path
) -> None:
    gateways[1].put("habits", mixed_splits())
    gateways[1].put("late", {f"raw/test/roses/late{number}.webp": image(100 + number) for number in range(3)})
    result = command("s3://habits/raw", append=[{"uri": "s3://late/raw"}]).finish()

    assert result.code == 0, result.log
    assert result.message["classes"] == [
        {"name": "roses", "train": 20, "validation": 5, "test": 3},
        {"name": "美食/凉皮", "train": 20, "validation": 5, "test": 0},
    ]
    assert result.message["ignored"] == {"NotInFolder": 1}


@pytest.mark.feature("O4")
def test_dataset_with_a_stored_earlier_version_keeps_its_class_names(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command]
) -> None:
    """Prepare again what an earlier release prepared with the folder around everything in the names."""
    gateways[1].put("around", {name.replace("raw/", "raw/photos/"): data for name, data in folders().items()})
    first = command("s3://around/raw", source={"uri": "s3://around/raw", "layout": "Folders"}).finish()
    second = command("s3://around/raw").finish()

    assert first.code == 0, first.log
    assert [entry["name"] for entry in first.message["classes"]] == ["photos/roses", "photos/美食/凉皮"]
    assert second.message["version"] == first.message["version"]


@pytest.mark.feature("D11")
def test_public_bucket_is_read_without_keys(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command]
) -> None:
    gateways[1].put("public", folders())
    statement = {
        "Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::public", "arn:aws:s3:::public/*"],
    }  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    # Where this server keeps it.
    os.setxattr(gateways[1].folder / "public", "user.policy", policy.encode())
    result = command("s3://public/raw", gateways[1].environment("SOURCE_", keyed=False)).finish()

    assert (result.code, result.message.get("images")) == (0, 50), result.log


@pytest.mark.feature("D11")
@pytest.mark.parametrize("keys", [{}, {"SOURCE_AWS_ACCESS_KEY_ID": "images", "SOURCE_AWS_SECRET_ACCESS_KEY": "wrong"}])
def test_refused_keys_are_bad_configuration(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command], keys: dict[str, str]
) -> None:
    environment = {**gateways[1].environment("SOURCE_", keyed=False), **keys}
    bucket = f"private{len(keys)}"
    gateways[1].put(bucket, {"raw/roses/1.png": b"x"})
    result = command(f"s3://{bucket}/raw", environment).finish()

    assert result.code == 2
    assert result.message["error"]["reason"] == "AccessDenied"
    assert f"refuses access to s3://{bucket}/raw" in result.message["error"]["message"]


@pytest.mark.feature("D8")
def test_inspected_images_are_not_read_again_after_a_kill(
    gateways: tuple[S3Server, S3Server], command: Callable[..., Command], tmp_path: Path
) -> None:
    store, images = gateways
    images.put("many", {f"raw/{'ab'[number % 2]}/{number}.png": image(number) for number in range(1500)})
    preparation = command("s3://many/raw")
    process = preparation.start()

    work = f"{tmp_path.name}/.work"

    def check_files() -> list[str]:
        paths = [entry["path"] for page in obstore.list(store.bucket("store"), work) for entry in page]
        return [path for path in paths if "/checks/" in path]

    while not check_files():
        assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = images.reads("many")
    contents = [bytes(obstore.get(store.bucket("store"), path).bytes()) for path in check_files()]
    checked = sum(len(content.splitlines()) for content in contents)
    result = preparation.finish()
    reads = images.reads("many")[len(before) :]

    assert result.code == 0, result.log
    assert checked >= 1000
    # Those not checked yet, every image once more to pack it, twelve for the report; a few were under way at the kill.
    assert 3000 - checked <= len(reads) <= 3000 - checked + 12 + 64
