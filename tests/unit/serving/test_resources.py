"""How many predictions run side by side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bloomery_serving.resources import cpu_count

ALL = len(os.sched_getaffinity(0))


@pytest.mark.feature("S2")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "max 100000"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL),
        ({}, ALL),
    ],
)
def test_workers_are_as_many_as_the_containers_limit_has_processors(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_count(tmp_path) == min(expected, ALL)
