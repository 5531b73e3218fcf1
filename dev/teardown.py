"""Takes the cluster off the machine: no process, mount, link or rule stays; what was built does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TextIO

from dev import processes
from dev.node import POD_BRIDGE, SERVICE_BRIDGE
from dev.paths import CONTAINERD_SOCKET, OWNER, ROOT, RUN, STATE
from dev.stages import run

CONTROL_PLANE = ("kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
NETWORK_NAMESPACES = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")


def take_down(log: TextIO) -> None:
    """End everything that ``make cluster`` started; may be called at any time, and again."""
    if OWNER.exists() and OWNER.read_text() != str(ROOT):
        print(f"The cluster on this machine is that of {OWNER.read_text()}; nothing was done.")
        return
    processes.stop("kubelet")
    _remove_containers(log)
    for name in ("buildkitd", "containerd", *CONTROL_PLANE):
        processes.stop(name)
    _unmount(log)
    _remove_links(log)
    _remove_rules(log)
    _remove_cgroups()
    shutil.rmtree(STATE / "cni", ignore_errors=True)
    shutil.rmtree(RUN, ignore_errors=True)


def _remove_containers(log: TextIO) -> None:
    """Kill and remove all pods' containers; their images stay."""
    for container in _ctr("containers", "ls", "-q").split():
        _ctr("tasks", "rm", "--force", container, log=log)
        _ctr("containers", "rm", container, log=log)


def _ctr(*words: str, log: TextIO | None = None) -> str:
    command = ["ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log or subprocess.DEVNULL, text=True, check=False)
    return done.stdout


def _unmount(log: TextIO) -> None:
    """Unmount what kubelet, containerd and the CNI plugins mounted, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    ours = [m for m in mounts if m.startswith((f"{STATE}/", f"{RUN}/", f"{NETWORK_NAMESPACES}/cni-"))]
    for mount in sorted(set(ours), key=len, reverse=True):
        run(["umount", "--lazy", mount.replace("\\040", " ")], log)
    for namespace in NETWORK_NAMESPACES.glob("cni-*"):
        namespace.unlink(missing_ok=True)


def _remove_links(log: TextIO) -> None:
    for bridge in (POD_BRIDGE, SERVICE_BRIDGE):
        if Path("/sys/class/net", bridge).exists():
            run(["ip", "link", "delete", bridge], log)


def _remove_rules(log: TextIO) -> None:
    """Write the packet filter's rules back without those of kube-proxy, the kubelet and the CNI plugins."""
    for family in ("iptables", "ip6tables"):
        saved = subprocess.run([f"{family}-save"], capture_output=True, text=True, check=False).stdout
        kept = [line for line in saved.splitlines() if not any(mark in line for mark in ("KUBE-", "CNI-"))]
        if len(kept) < len(saved.splitlines()):
            run([f"{family}-restore"], log, stdin="\n".join(kept) + "\n")


def _remove_cgroups() -> None:
    for group in sorted(CGROUPS.glob("*/kubepods/**/"), key=lambda path: len(path.parts), reverse=True):
        # One that still has a process stays; that process is not ours to end here.
        if group.is_dir() and not (group / "cgroup.procs").read_text().strip():
            group.rmdir()
