"""Starts of a training that are counted, and when it is given up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bloomery_trainer.torch_runtime  # noqa: F401  (settles how torch's threads wait, before torch is loaded)
from bloomery_trainer.engine.attempts import ATTEMPTS, counted_start, note_ended, read_attempts
from bloomery_trainer.errors import BadConfig, PeerLost
from bloomery_trainer.storage import Folder, S3Access, open_folder

pytestmark = pytest.mark.feature("T13")


@pytest.fixture
def output(tmp_path: Path) -> Folder:
    return open_folder(f"file://{tmp_path}/output", S3Access.from_environment({}), create=True)


def start(output: Folder, error: Exception | None = None, *, has_steps: bool = True) -> None:
    with counted_start(output, has_steps=has_steps):
        if error is not None:
            raise error


def test_a_meeting_that_never_succeeds_fails_with_its_last_error(output: Folder) -> None:
    for number in range(5):
        with pytest.raises(PeerLost):
            start(output, PeerLost("PeerLost", f"NCCL error {number}"))
    with pytest.raises(BadConfig, match=r"started 5 times at step 0.*NCCL error 4") as caught:
        start(output)

    assert caught.value.reason == "NoProgress"


def test_a_start_that_gained_steps_begins_a_new_count(output: Folder) -> None:
    for _ in range(4):
        start(output)
    output.write("checkpoints/step-000000007.pt", b"state")
    for _ in range(5):
        start(output)

    assert [attempt["step"] for attempt in read_attempts(output)] == [0] * 4 + [7] * 5
    with pytest.raises(BadConfig):
        start(output)


def test_evictions_while_evaluating_never_give_a_trained_model_up(output: Folder) -> None:
    output.write("checkpoints/step-000000060.pt", b"state")
    start(output)
    note_ended(output, 60)
    for _ in range(12):
        start(output)

    assert len(read_attempts(output)) == 13


def test_evictions_of_a_head_that_is_fitted_are_no_lack_of_progress(output: Folder) -> None:
    for _ in range(12):
        start(output, has_steps=False)

    assert len(read_attempts(output)) == 12


def test_an_evaluation_that_always_loses_its_peers_is_given_up(output: Folder) -> None:
    output.write("checkpoints/step-000000060.pt", b"state")
    start(output)
    note_ended(output, 60)
    for _ in range(5):
        with pytest.raises(PeerLost):
            start(output, PeerLost("PeerLost", "gone"))
    with pytest.raises(
        BadConfig, match="what follows its steps never came to an end; the last error was: PeerLost: gone"
    ):
        start(output)


def test_attempts_of_an_earlier_release_are_counted_on(output: Folder) -> None:
    output.write(ATTEMPTS, json.dumps([{"time": "2026-01-01T00:00:00Z", "step": 0}] * 5).encode())

    with pytest.raises(BadConfig, match="save more often"):
        start(output)
