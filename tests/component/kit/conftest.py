"""The parts of kits, as the image has them, and a model whose right answers are known."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev import images
from dev.node import CTR
from dev.paths import ROOT, STATE
from tests.component.serving.conftest import GREEN, write_model
from tests.component.serving.conftest import picture as make_picture

Pack = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as trainings write them."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A green picture."""
    path = tmp_path_factory.mktemp("pictures") / "green.png"
    path.write_bytes(make_picture(GREEN))
    return path


@pytest.fixture(scope="session")
def pack(model: Path) -> Pack:
    """Run the command that packs kits, with the environment of a serving pod."""

    def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
        known = {"MODEL_URI": f"file://{model}", "SERVICE_NAME": "colours", "RUN_ID": "r1"} | environment
        command = [sys.executable, "-m", "bloomery_serving", "kit", *map(str, words)]
        return subprocess.run(command, env=os.environ | known, capture_output=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """The image's own folder, out of which its pods pack."""
    built = subprocess.run([sys.executable, "-m", "dev", "images", "kit"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    # Under .dev/, where taking the cluster down would end the mount too.
    mount = STATE / "kit-image"
    mount.mkdir(exist_ok=True)
    done = subprocess.run(
        [*CTR, "images", "mount", images.by_name("kit").reference, mount], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    yield mount / "kit"
    subprocess.run([*CTR, "images", "unmount", "--rm", mount], capture_output=True, check=True)


@pytest.fixture(scope="session")
def linux_zip(base: Path, pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit for Linux."""
    path = tmp_path_factory.mktemp("kits") / "linux.zip"
    done = pack("--base", base, "--output", path)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["bytes"] == path.stat().st_size
    return path
