"""CPU and memory of this process: the cgroup's limits, not the host's size."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_ASSUMED_HOST_BYTES = 4 * 1024**3
"""Memory of a machine that has no ``sysconf``: Windows, which offline kits run on."""


def cpu_count(cgroup: Path = CGROUP) -> int:
    """Return whole processors: the smaller of the affinity and the cgroup's quota (v2, then v1), at least 1."""
    # Windows, which offline kits run on, has neither affinity in this form nor cgroups.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return processors if quota is None else max(1, min(processors, math.ceil(quota)))


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Return the smaller of the host's memory and the cgroup's limit (v2, then v1)."""
    host = _host_memory_bytes()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _read_cgroup_file(cgroup / name)
        if limit is not None and limit.isdigit():
            return min(host, int(limit))
    return host


def resident_bytes(process: Path = Path("/proc/self")) -> int:
    """Return the memory that this process has (proc(5), statm); 0 on a machine that does not say."""
    try:
        return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def _host_memory_bytes() -> int:
    if not hasattr(os, "sysconf"):
        return _ASSUMED_HOST_BYTES
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_quota(cgroup: Path) -> float | None:
    v2 = _read_cgroup_file(cgroup / "cpu.max")
    if v2 is not None:
        quota, period = v2.split()
        return None if quota == "max" else int(quota) / int(period)
    v1 = _read_cgroup_file(cgroup / "cpu/cpu.cfs_quota_us")
    v1_period = _read_cgroup_file(cgroup / "cpu/cpu.cfs_period_us")
    if v1 is None or v1_period is None or int(v1) <= 0:
        return None
    return int(v1) / int(v1_period)


def _read_cgroup_file(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
