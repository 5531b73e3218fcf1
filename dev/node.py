"""The node: containerd, the kubelet, kube-proxy, and the bridges that pods and cluster addresses live on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TextIO

from dev import processes
from dev.control_plane import DNS_IP, NODE_IP, POD_CIDR
from dev.paths import BIN, CONTAINERD_SOCKET, KUBECONFIG, OWNER, PKI, ROOT, RUN, STATE, pids_of
from dev.stages import StageError, run, wait_until

NODE_NAME = "dev"
CONFIG = STATE / "node"
SERVICE_BRIDGE = "kube0"
POD_BRIDGE = "cni0"
KUBELET_ROOT = RUN / "kubelet"
CTR = ("ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io")
SYSCTL = Path("/proc/sys/net")
KERNEL_SETTINGS = ("ipv4/ip_forward", "ipv4/conf/all/route_localnet", "bridge/bridge-nf-call-iptables")
KERNEL_SETTINGS_BEFORE = RUN / "kernel-settings.json"
"""What these settings were before the cluster needed them."""

FIRST_GB, LATER_GB = 30, 8
"""What a start from nothing writes, caches of Go and Python packages with it; and what tests do once that is there."""


def claim_machine() -> None:
    """Make this checkout the owner of the machine's one cluster; remove the remains of another, dead cluster.

    Raises:
        StageError: another checkout's cluster runs here, or its remains cannot be removed.
    """
    owner = Path(OWNER.read_text()) if OWNER.exists() else ROOT
    if owner != ROOT and pids_of(owner).exists():
        if processes.any_running(pids_of(owner)):
            raise StageError(f"another checkout's cluster runs on this machine: make -C {owner} cluster-down ends it")
        _remove_remains(owner)
    RUN.mkdir(parents=True, exist_ok=True)
    OWNER.write_text(str(ROOT))


def disk_shortage() -> str | None:
    """Say that the disk may not hold the images; the node would refuse pods half an hour later, with no such word."""
    free, needed = shutil.disk_usage(ROOT).free / 1e9, LATER_GB if (STATE / "images").exists() else FIRST_GB
    if free >= needed:
        return None
    return f"Only {free:.0f} GB are free on the disk of {ROOT}, where {needed} GB are needed: pods may be refused."


def _remove_remains(owner: Path) -> None:
    """Have a checkout take its dead cluster off the machine: containers outlive daemons that were killed."""
    print(f"The cluster of {owner} is dead; removing what it left.", flush=True)
    ended = subprocess.run(["make", "-C", str(owner), "cluster-down"], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise StageError(f"the remains of the cluster of {owner} are in the way: {ended.stderr.strip()}")


def start_containerd(log: TextIO) -> None:
    """Start containerd; its images and containers live under ``.dev``."""
    del log
    claim_machine()
    _write_cni()
    CONFIG.mkdir(parents=True, exist_ok=True)
    (CONFIG / "containerd.toml").write_text(_containerd())
    config = CONFIG / "containerd.toml"
    processes.start("containerd", ["containerd", "--config", config], reads=[config])
    ping = ["ctr", f"--address={CONTAINERD_SOCKET}", "version"]
    wait_until("containerd", lambda: processes.is_up("containerd", lambda: _succeeds(ping)), seconds=60)


def make_network(log: TextIO) -> None:
    """Make the bridge that carries the node's and the cluster's addresses, so that none ever leaves the machine."""
    if not Path("/sys/class/net", SERVICE_BRIDGE).exists():
        run(["ip", "link", "add", SERVICE_BRIDGE, "type", "bridge"], log)
        run(["ip", "address", "add", "10.96.255.254/16", "dev", SERVICE_BRIDGE], log)
        run(["ip", "address", "add", f"{NODE_IP}/32", "dev", SERVICE_BRIDGE], log)
        run(["ip", "link", "set", SERVICE_BRIDGE, "up"], log)
    settings = {name: path.read_text() for name in KERNEL_SETTINGS if (path := SYSCTL / name).exists()}
    if not KERNEL_SETTINGS_BEFORE.exists():
        KERNEL_SETTINGS_BEFORE.write_text(json.dumps(settings))
    for name in settings:
        (SYSCTL / name).write_text("1")


def _mount_kubelet_root(log: TextIO) -> None:
    """Give the kubelet's folder a short path too: it makes sockets in it."""
    KUBELET_ROOT.mkdir(exist_ok=True)
    if str(KUBELET_ROOT) not in mount_points():
        (STATE / "kubelet").mkdir(exist_ok=True)
        run(["mount", "--bind", STATE / "kubelet", KUBELET_ROOT], log)
        # Private first: what the kubelet mounts must not appear at the long path as well.
        run(["mount", "--make-private", KUBELET_ROOT], log)
        run(["mount", "--make-shared", KUBELET_ROOT], log)


def mount_points() -> list[str]:
    """Return where things are mounted on this machine; a place with two mounts on it stands there twice.

    ``Path.is_mount`` does not see a bind mount within one file system.
    """
    lines = Path("/proc/mounts").read_text().splitlines()
    return [line.split()[1].replace("\\040", " ") for line in lines]


def start(log: TextIO) -> None:
    """Start the kubelet and kube-proxy and wait for the node to be ready."""
    make_network(log)
    _mount_kubelet_root(log)
    CONFIG.mkdir(parents=True, exist_ok=True)
    (CONFIG / "resolv.conf").write_text("")
    config = CONFIG / "kubelet.json"
    config.write_text(json.dumps(_kubelet()))
    processes.start(
        "kubelet",
        [
            BIN / "kubelet",
            f"--config={config}",
            f"--kubeconfig={KUBECONFIG}",
            f"--root-dir={KUBELET_ROOT}",
            f"--cert-dir={STATE / 'kubelet-pki'}",
            f"--node-ip={NODE_IP}",
            f"--hostname-override={NODE_NAME}",
        ],
        reads=[config],
    )
    processes.start(
        "kube-proxy",
        [
            BIN / "kube-proxy",
            f"--kubeconfig={KUBECONFIG}",
            f"--cluster-cidr={POD_CIDR}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=iptables",
            # The machine's limits are not ours to raise.
            "--conntrack-max-per-core=0",
            "--iptables-min-sync-period=200ms",
            # This machine only: what the cluster serves is not for its network.
            f"--nodeport-addresses=127.0.0.0/8,{NODE_IP}/32",
        ],
    )
    wait_until("The node", lambda: processes.is_up("kubelet", is_ready), seconds=90)
    wait_until("The kubelet's word on its pods", _is_told_of_its_pods, seconds=90)


def is_ready() -> bool:
    """Whether the node's Ready condition holds."""
    return _read("get", "node", NODE_NAME, "-ojsonpath={.status.conditions[?(@.type=='Ready')].status}") == "True"


def _is_told_of_its_pods() -> bool:
    """Whether every container that the API server takes for running does run.

    The API server remembers the pods of a cluster that was taken down, with their conditions: without this, what
    waits for a Deployment would see it available before a single new container of it was made.
    """
    query = "-ojsonpath={range .items[*].status.containerStatuses[?(@.state.running)]}{.containerID}{'\\n'}{end}"
    claimed = {line.removeprefix("containerd://") for line in _read("get", "pods", "--all-namespaces", query).split()}
    listed = subprocess.run([*CTR, "tasks", "ls"], capture_output=True, text=True, check=True).stdout
    running = {line.split()[0] for line in listed.splitlines() if line.endswith("RUNNING")}
    return claimed <= running


def _read(*words: str) -> str:
    command = [str(BIN / "kubectl"), f"--kubeconfig={KUBECONFIG}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _write_cni() -> None:
    folder = CONFIG / "cni"
    folder.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": POD_BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(STATE / "cni"),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    port_map = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "0.4.0", "name": "bridge", "plugins": [bridge, port_map]}
    (folder / "10-bridge.conflist").write_text(json.dumps(network))


def _containerd() -> str:
    return f"""\
version = 2
root = "{STATE / "containerd"}"
state = "{RUN / "containerd"}"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/bloomery/pause:dev"
  enable_selinux = false
  # Without CAP_SYS_RESOURCE a lower score cannot be set, and no sandbox would start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{CONFIG / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def _kubelet() -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(PKI / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "enforceNodeAllocatable": [],
        # Images cannot be pulled again, so none is ever collected.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "registerNode": True,
        "podCIDR": POD_CIDR,
        "address": NODE_IP,
        "resolvConf": str(CONFIG / "resolv.conf"),
        "serializeImagePulls": False,
        # A Secret that changed reaches its volume within seconds, not a minute and more.
        "syncFrequency": "10s",
    }


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, env=os.environ, check=False).returncode == 0
