"""Processors and memory within the limits of a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bloomery_model.cgroup import cpu_count, memory_bytes, resident_bytes

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
def test_processors_are_those_of_the_containers_limit(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_count(tmp_path) == min(expected, ALL)


@pytest.mark.feature("S24")
def test_memory_of_the_process_is_known_where_the_system_reports_it(tmp_path: Path) -> None:
    assert 1024**2 < resident_bytes() < memory_bytes()
    assert resident_bytes(tmp_path / "no-process") == 0


def test_memory_is_that_of_the_containers_limit(tmp_path: Path) -> None:
    unlimited = memory_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_bytes(tmp_path) == 1048576 < unlimited
