"""What shells offer while ``kubectl bloomery …`` is typed, as kubectl itself asks for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.component.conftest import ApiServer
from tests.component.operator_harness import dataset, training_job
from tests.component.plugin.conftest import Objects, environment

Offered = Callable[..., list[str]]


@pytest.fixture
def offered(crds: ApiServer, program: Callable[[str], Path], tmp_path: Path) -> Offered:
    """Ask kubectl what it offers after some words, the last of them unfinished."""
    known = environment(crds, program, tmp_path)
    known["PATH"] = f"{Path(sys.executable).parent}:{known['PATH']}"

    def ask(*words: str) -> list[str]:
        command = [str(program("kubectl")), "__complete", "bloomery", *words]
        done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    return ask


@pytest.mark.feature("O5")
def test_commands_and_names_are_offered(offered: Offered, objects: Objects) -> None:
    objects.create(training_job("flowers"))
    objects.create(training_job("foods"))
    objects.create(dataset("fruits"))
    here = ("-n", objects.namespace)

    assert [line.split("\t")[0] for line in offered("re")] == ["retrain", "report", ":4"]
    assert offered("follow", *here, "") == ["flowers", "foods", ":4"]
    assert offered("follow", *here, "fl") == ["flowers", ":4"]
    assert offered("report", *here, "") == ["flowers", "foods", "dset/fruits", ":4"]
    assert objects.namespace in offered("live", "-n", "test-")


@pytest.mark.feature("O5")
def test_files_are_left_to_the_shell_and_no_cluster_is_no_noise(offered: Offered, objects: Objects) -> None:
    assert offered("check", "pictures/") == [":0"]
    assert offered("predict", "-n", objects.namespace, "colours", "") == [":0"]
    assert offered("follow", "--context", "nowhere", "") == [":0"]
