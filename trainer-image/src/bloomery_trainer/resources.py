"""How much processor and memory this process may use: the cgroup's limits, not the host's size."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_count(cgroup: Path = CGROUP) -> int:
    """Whole processors to use: the smaller of the affinity and the cgroup's quota (v2, then v1), at least 1."""
    processors = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return processors if quota is None else max(1, min(processors, math.ceil(quota)))


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Memory to use in bytes: the smaller of the host's and the cgroup's limit (v2, then v1)."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _read(cgroup / name)
        if limit is not None and limit.isdigit():
            return min(host, int(limit))
    return host


def _cpu_quota(cgroup: Path) -> float | None:
    unified = _read(cgroup / "cpu.max")
    if unified is not None:
        quota, period = unified.split()
        return None if quota == "max" else int(quota) / int(period)
    older, per = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    if older is None or per is None or int(older) <= 0:
        return None
    return int(older) / int(per)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
