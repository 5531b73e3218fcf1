"""The command ``retrain``."""

from __future__ import annotations

import pytest
import yaml

from testing.samples import training_job
from tests.component.plugin.conftest import Objects, Plugin


@pytest.mark.feature("O5")
def test_new_job_is_created_with_changes(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job(), {"phase": "Complete"})

    first = bloomery("retrain", "flowers", "--set=preset=resnet50", "--set=hyperparameters.epochs=30")
    second = bloomery("retrain", "flowers")

    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == "flowers-2 is made from flowers; kubectl bloomery follow flowers-2 shows it.\n"
    assert second.stdout.startswith("flowers-3 is made from flowers")
    new = objects.get("trainingjob", "flowers-2")
    assert (new["spec"]["preset"], new["spec"]["hyperparameters"]["epochs"]) == ("resnet50", 30)
    assert new["spec"]["output"]["registeredModel"] == "flowers"
    assert new["spec"]["datasets"] == objects.get("trainingjob", "flowers")["spec"]["datasets"]


@pytest.mark.feature("O5")
def test_dry_run_prints_manifest_and_creates_nothing(bloomery: Plugin, objects: Objects) -> None:
    objects.create(training_job(displayName="花"))

    ended = bloomery("retrain", "flowers", "--name=tulips", "--dry-run")
    missing = bloomery("retrain", "tulips")

    assert ended.returncode == 0, ended.stderr
    assert "displayName: 花" in ended.stdout
    objects.create(yaml.safe_load(ended.stdout))
    assert missing.stderr == "error: There is no TrainingJob 'tulips' in this namespace; -n names another one.\n"


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("preset=resnet5", 'Unsupported value: "resnet5"'),
        ("hyperparameters.epoch=3", 'unknown field "spec.hyperparameters.epoch"'),
        ("hyperparameters.maxSteps=10", "epochs"),
    ],
)
def test_rejected_change_gets_api_servers_message(
    bloomery: Plugin, objects: Objects, change: str, message: str
) -> None:
    objects.create(training_job())

    ended = bloomery("retrain", "flowers", f"--set={change}")

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and message in ended.stderr and "Traceback" not in ended.stderr
