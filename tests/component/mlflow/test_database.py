"""The databases that the chart's `mlflow.backendStoreUri` may name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CONNECTS = "import sys; from sqlalchemy import create_engine; create_engine(sys.argv[1])"


@pytest.mark.feature("O1")
@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_the_image_has_the_driver_of_each_way_to_name_postgresql(mlflow_program: Path, scheme: str) -> None:
    command = [mlflow_program.parent / "python", "-c", CONNECTS, f"{scheme}://mlflow:secret@db.example.com/mlflow"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
