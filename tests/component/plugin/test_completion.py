"""Shell completion of ``kubectl bloomery``, through kubectl."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testing.api_server import ApiServer
from testing.samples import batch_prediction, dataset, training_job
from tests.component.plugin.conftest import Objects, environment

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(crds: ApiServer, program: Callable[[str], Path], tmp_path: Path) -> Complete:
    """Return kubectl's completions after some words, the last of them unfinished."""
    variables = environment(crds, program, tmp_path)
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"

    def run(*words: str) -> list[str]:
        command = [str(program("kubectl")), "__complete", "bloomery", *words]
        completed = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=True)
        return completed.stdout.splitlines()

    return run


@pytest.mark.feature("O5")
def test_commands_and_names_are_completed(complete: Complete, objects: Objects) -> None:
    objects.create(training_job("flowers"))
    objects.create(training_job("foods"))
    objects.create(dataset("fruits"))
    objects.create(batch_prediction("june"))
    scope = ("-n", objects.namespace)

    assert [line.split("\t")[0] for line in complete("re")] == ["retrain", "report", ":4"]
    assert complete("follow", *scope, "") == ["flowers", "foods", "bp/june", ":4"]
    assert complete("follow", *scope, "fl") == ["flowers", ":4"]
    assert complete("report", *scope, "") == ["flowers", "foods", "dset/fruits", ":4"]
    assert objects.namespace in complete("live", "-n", "test-")


@pytest.mark.feature("O5")
def test_files_are_left_to_shell_and_missing_cluster_is_silent(complete: Complete, objects: Objects) -> None:
    assert complete("check", "pictures/") == [":0"]
    assert complete("predict", "-n", objects.namespace, "colours", "") == [":0"]
    assert complete("follow", "--context", "nowhere", "") == [":0"]
