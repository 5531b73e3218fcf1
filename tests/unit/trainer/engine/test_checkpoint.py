"""Checkpoints that are written while training goes on, and read by all processes alike."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine.background import BackgroundWriter
from bloomery_trainer.engine.checkpoint import Checkpoints, Saved
from bloomery_trainer.errors import Unavailable
from bloomery_trainer.storage import Folder, S3Access, open_folder

pytestmark = pytest.mark.feature("T13")


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(f"file://{tmp_path}/output", S3Access.from_environment({}), create=True)


@pytest.fixture
def checkpoints(output: Folder, tmp_path: Path) -> Checkpoints:
    return Checkpoints(output, tmp_path, keep=2, on_saved=lambda _: None)


def names(output: Folder) -> list[str]:
    return sorted(file.path.removeprefix("checkpoints/") for file in output.list("checkpoints"))


def saved_at(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"weight": torch.full((3,), float(step))})
        assert checkpoints.close(seconds=0)


def test_only_the_newest_checkpoints_stay_with_their_digests(checkpoints: Checkpoints, output: Folder) -> None:
    saved_at(checkpoints, 1, 2, 3)

    assert names(output) == [
        "step-000000002.pt", "step-000000002.pt.sha256", "step-000000003.pt", "step-000000003.pt.sha256",
    ]  # fmt: skip


def test_what_is_saved_after_a_damaged_checkpoint_stays(output: Folder, tmp_path: Path) -> None:
    """Training has begun again, as the only checkpoint could not be read."""
    checkpoints = Checkpoints(output, tmp_path, keep=1, on_saved=lambda _: None)
    saved_at(checkpoints, 300)
    output.write("checkpoints/step-000000300.pt", b"damaged")
    assert checkpoints.newest(World()) is None

    saved_at(checkpoints, 50, 100)

    state = checkpoints.newest(World())
    assert state is not None and state["step"] == 100
    assert [name for name in names(output) if name.endswith(".pt")] == ["step-000000100.pt", "step-000000300.pt"]
    saved_at(checkpoints, 350)
    assert [name for name in names(output) if name.endswith(".pt")] == ["step-000000350.pt"]


def test_a_state_changed_after_saving_is_written_as_it_was(checkpoints: Checkpoints) -> None:
    weight = torch.ones(3)
    checkpoints.save(1, {"model": {"weight": weight}, "best": None, "random": [{"cpu": torch.zeros(2)}]})
    weight.zero_()
    checkpoints.close(seconds=0)
    state = checkpoints.newest(World())

    assert state is not None
    assert state["model"]["weight"].tolist() == [1, 1, 1]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    checkpoints: Checkpoints, output: Folder, tmp_path: Path
) -> None:
    saved_at(checkpoints, 1, 2)
    path = tmp_path / "output" / "checkpoints" / "step-000000002.pt"
    data = bytearray(path.read_bytes())
    # A flipped bit within the tensor's own bytes: torch.load takes the file as it is.
    data[data.index(torch.full((3,), 2.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["step"] == 2

    state = checkpoints.newest(World())
    assert state is not None
    assert state["step"] == 1


def test_a_checkpoint_without_digest_of_an_earlier_release_is_read(
    checkpoints: Checkpoints, output: Folder, tmp_path: Path
) -> None:
    torch.save({"format": 1, "step": 4, "weight": torch.ones(1)}, tmp_path / "old.pt")
    output.upload(tmp_path / "old.pt", "checkpoints/step-000000004.pt")

    state = checkpoints.newest(World())
    assert state is not None
    assert state["step"] == 4


def test_training_goes_on_while_the_store_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = threading.Event()
    away.set()
    written: list[int] = []

    def write(step: int, state: Any) -> None:
        if away.is_set():
            raise Unavailable("StoreUnreachable", "the store of s3://a does not answer")
        written.append(step)

    writer = BackgroundWriter(write)
    writer.put(7, {})
    assert not writer.close(seconds=0)
    assert "the checkpoint of step 7 could not be saved: the store of s3://a does not answer" in caplog.text
    away.clear()
    writer.put(14, {})

    assert writer.close(seconds=0)
    assert written == [14]


def test_closing_tries_a_failed_state_again(tmp_path: Path) -> None:
    failures = [Unavailable("StoreUnreachable", "away"), None]
    written: list[int] = []

    def write(step: int, state: Any) -> None:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        written.append(step)

    writer = BackgroundWriter(write)
    writer.put(7, {})

    assert writer.close(seconds=60)
    assert written == [7]


def test_a_slow_store_gets_the_newest_state_next(tmp_path: Path) -> None:
    begun, release = threading.Event(), threading.Event()
    written: list[int] = []

    def write(step: int, state: Any) -> None:
        begun.set()
        assert release.wait(60)
        written.append(step)

    writer = BackgroundWriter(write)
    writer.put(1, {})
    assert begun.wait(60)
    for step in (2, 3, 4):
        writer.put(step, {})
    release.set()

    assert writer.close(seconds=0)
    assert written == [1, 4]


def test_a_saved_checkpoint_is_announced_with_its_address(output: Folder, tmp_path: Path) -> None:
    announced: list[Saved] = []
    checkpoints = Checkpoints(output, tmp_path, keep=2, on_saved=announced.append)
    saved_at(checkpoints, 3)

    assert [(saved.step, saved.uri) for saved in announced] == [
        (3, f"file://{tmp_path}/output/checkpoints/step-000000003.pt")
    ]
