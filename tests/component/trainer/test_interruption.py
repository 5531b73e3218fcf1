"""Trainings that are killed, terminated, stopped or out of time lose nothing that they learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.component.trainer.conftest import TOKEN, Trainers

EVERY = 7
Config = Callable[..., dict[str, Any]]


def starts(folder: Path) -> list[int]:
    """The step at which each start of the training went on."""
    return [attempt["step"] for attempt in json.loads((folder / "attempts.json").read_text(encoding="utf-8"))]


def last_saved(progress: dict[str, Any]) -> int:
    """The step of the checkpoint that was saved last; 0 before the first."""
    return int((progress.get("lastCheckpoint") or {}).get("step", 0))


@pytest.mark.feature("T13")
def test_a_training_killed_at_three_points_ends_like_an_undisturbed_one(
    trainers: Trainers, train_config: Config, tmp_path: Path
) -> None:
    undisturbed = trainers.run(train_config("undisturbed")).message
    saved_at = []
    for step in (7, 21, 35):
        trainer = trainers.start(train_config("killed"))
        progress = trainer.until(lambda progress, step=step: last_saved(progress) >= step)
        saved_at.append(last_saved(progress))
        trainer.kill()
    killed = trainers.run(train_config("killed")).message

    # The images, their order, how they are varied and what is drawn at random all go on where they were.
    assert killed["metrics"] == pytest.approx(undisturbed["metrics"], abs=0.02)
    assert killed["lastCheckpoint"]["step"] == undisturbed["lastCheckpoint"]["step"] == 60
    assert killed["starts"] == 4
    # A checkpoint that was announced is there; one that was under way may be there as well.
    resumed_at = starts(tmp_path / "killed")[1:]
    assert all(resumed >= saved for resumed, saved in zip(resumed_at, saved_at, strict=True))
    assert all(resumed % EVERY == 0 for resumed in resumed_at)


@pytest.mark.feature("T13")
def test_sigterm_saves_the_state_and_sets_the_exit_code(
    trainers: Trainers, train_config: Config, tmp_path: Path
) -> None:
    config = train_config("told", checkpoint={"everySeconds": 3600})
    trainer = trainers.start(config)
    step = trainer.until(lambda progress: progress.get("step", 0) >= 5)["step"]

    assert trainer.terminate() == 143
    assert trainer.message["error"]["reason"] == "Terminated"
    again = trainers.run(config)
    assert starts(tmp_path / "told")[1] >= step
    assert again.message["starts"] == 2


@pytest.mark.extended
@pytest.mark.feature("T13")
def test_only_the_newest_checkpoints_are_kept(trainers: Trainers, train_config: Config, tmp_path: Path) -> None:
    trainers.run(train_config("kept", {"maxSteps": 24}, checkpoint={"everySteps": 5, "keep": 2}))

    names = sorted(path.name for path in (tmp_path / "kept" / "checkpoints").glob("*.pt"))
    assert len(names) == 2
    # A state that still waited for the one before it to be written may have been replaced by a newer one.
    assert names[-1] == "step-000000024.pt"


@pytest.mark.extended
@pytest.mark.feature("T13")
def test_a_training_that_never_gains_a_step_is_given_up(
    trainers: Trainers, train_config: Config, tmp_path: Path
) -> None:
    (tmp_path / "stuck").mkdir()
    attempts = [{"time": "2026-01-01T00:00:00Z", "step": 0}] * 5
    (tmp_path / "stuck" / "attempts.json").write_text(json.dumps(attempts))
    trainer = trainers.start(train_config("stuck"))

    assert trainer.wait() == 2
    assert trainer.message["error"]["reason"] == "NoProgress"


@pytest.mark.feature("T8")
def test_a_stopped_training_keeps_the_best_model_so_far(
    trainers: Trainers, train_config: Config, tmp_path: Path
) -> None:
    trainer = trainers.start(train_config("stopped", {"maxSteps": 100_000}))
    trainer.until(lambda progress: progress.get("step", 0) >= 12)

    assert trainer.post_stop("wrong") == 401
    assert trainer.post_stop(TOKEN) == 202
    assert trainer.wait() == 0
    assert trainer.message["reason"] == "Stopped"
    assert (tmp_path / "stopped" / "model" / "model.onnx").exists()


@pytest.mark.extended
@pytest.mark.feature("T8")
def test_training_time_counts_over_all_starts(trainers: Trainers, train_config: Config, tmp_path: Path) -> None:
    """The best model is kept at its end."""
    config = train_config("limited", {"maxSteps": 100_000}, maxTrainingSeconds=8)
    trainer = trainers.start(config)
    trainer.until(lambda progress: progress.get("step", 0) >= 10)
    assert trainer.terminate() == 143
    ended = trainers.run(config)

    assert ended.message["reason"] == "TrainingTimeReached"
    assert (tmp_path / "limited" / "model" / "metadata.json").exists()


@pytest.mark.extended
def test_a_training_that_no_longer_improves_is_stopped_early(trainers: Trainers, train_config: Config) -> None:
    config = train_config(
        "patient", {"learningRate": 1e-9, "maxSteps": 100_000, "warmupEpochs": 0}, earlyStopping={"patience": 2}
    )
    ended = trainers.run(config).message

    assert ended["reason"] == "StoppedEarly"


@pytest.mark.extended
def test_an_output_folder_of_another_job_is_left_alone(
    trainers: Trainers, train_config: Config, tmp_path: Path
) -> None:
    trainers.run(train_config("taken", {"maxSteps": 1}))
    before = (tmp_path / "taken" / "result.json").read_bytes()
    other = trainers.start({**train_config("taken"), "uid": "another"})

    assert other.wait() == 2
    assert other.message["error"]["reason"] == "OutputTaken"
    assert (tmp_path / "taken" / "result.json").read_bytes() == before


@pytest.mark.extended
def test_checkpoints_of_another_job_are_not_gone_on_from(trainers: Trainers, train_config: Config) -> None:
    first = trainers.start(train_config("unfinished", {"maxSteps": 100_000}))
    first.until(lambda progress: progress.get("lastCheckpoint"))
    first.kill()
    other = trainers.start({**train_config("unfinished"), "uid": "another"})

    assert other.wait() == 2
    assert other.message["error"]["reason"] == "OutputTaken"
