"""Takes the cluster off the machine: no process, mount, link or rule stays; what was built does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TextIO

from dev import node, processes
from dev.node import CTR, KERNEL_SETTINGS_BEFORE, POD_BRIDGE, SERVICE_BRIDGE, SYSCTL
from dev.paths import CONTAINERD_SOCKET, OWNER, ROOT, RUN, STATE
from dev.stages import StageError, run

CONTROL_PLANE = ("kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
NETWORK_NAMESPACES = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")


def take_down(log: TextIO) -> None:
    """End everything that ``make cluster`` started; may be called at any time, and again."""
    if OWNER.exists() and OWNER.read_text() != str(ROOT):
        raise StageError(f"the cluster on this machine is that of {OWNER.read_text()}; nothing was done")
    if CONTAINERD_SOCKET.exists() and shutil.which("ctr"):
        # A containerd that was killed has left its containers running; they are ended through it alone.
        node.start_containerd(log)
    processes.stop("kubelet")
    _remove_containers(log)
    for name in ("buildkitd", "containerd", *CONTROL_PLANE):
        processes.stop(name)
    _remove_links(log)
    _remove_rules(log)
    _remove_cgroups()
    _restore_kernel_settings()
    _unmount(log)
    # Only now: a volume that were still mounted here would lose its files.
    shutil.rmtree(STATE / "cni", ignore_errors=True)
    shutil.rmtree(RUN, ignore_errors=True)


def _remove_containers(log: TextIO) -> None:
    """Kill and remove all pods' containers; their images stay."""
    for container in _ctr("containers", "ls", "-q").split():
        _ctr("tasks", "rm", "--force", container, log=log)
        _ctr("containers", "rm", container, log=log)


def _ctr(*words: str, log: TextIO | None = None) -> str:
    if not CONTAINERD_SOCKET.exists():
        return ""
    stderr = log or subprocess.DEVNULL
    return subprocess.run([*CTR, *words], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False).stdout


def _unmount(log: TextIO) -> None:
    """Unmount what kubelet, containerd and the CNI plugins mounted, the innermost first.

    Raises:
        StageError: some of it stays.
    """
    for mount in sorted(_mounts(), key=len, reverse=True):
        # Some go by themselves meanwhile, so what counts is what is there in the end.
        subprocess.run(["umount", "--lazy", mount], stdout=log, stderr=log, check=False)
    if left := _mounts():
        raise StageError(f"these are still mounted: {', '.join(left)}")
    for namespace in NETWORK_NAMESPACES.glob("cni-*"):
        namespace.unlink(missing_ok=True)


def _mounts() -> list[str]:
    ours = (f"{STATE}/", f"{RUN}/", f"{NETWORK_NAMESPACES}/cni-")
    return [mount for mount in node.mount_points() if mount.startswith(ours)]


def _remove_links(log: TextIO) -> None:
    for bridge in (POD_BRIDGE, SERVICE_BRIDGE):
        if Path("/sys/class/net", bridge).exists():
            run(["ip", "link", "delete", bridge], log)


def _remove_rules(log: TextIO) -> None:
    """Write the packet filter's rules back without those of kube-proxy, the kubelet and the CNI plugins."""
    for family in ("iptables", "ip6tables"):
        if shutil.which(f"{family}-save") is None:
            continue
        saved = subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False).stdout
        rules = without_ours(saved)
        if rules != saved:
            run([f"{family}-restore"], log, stdin=rules)


def without_ours(rules: str) -> str:
    """Return saved packet filter rules without the chains of the cluster, and without the jumps into them."""
    lines = rules.splitlines(keepends=True)
    return "".join(line for line in lines if not any(mark in line for mark in ("KUBE-", "CNI-")))


def _restore_kernel_settings() -> None:
    if KERNEL_SETTINGS_BEFORE.exists():
        for name, value in json.loads(KERNEL_SETTINGS_BEFORE.read_text()).items():
            if (SYSCTL / name).exists():
                (SYSCTL / name).write_text(value)


def _remove_cgroups() -> None:
    groups = [group for name in ("kubepods", "buildkit") for group in CGROUPS.glob(f"*/{name}/**/")]
    for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
        # One that still has a process stays; that process is not ours to end here.
        if group.is_dir() and not (group / "cgroup.procs").read_text().strip():
            group.rmdir()
