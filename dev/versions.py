"""Every pinned version of the development cluster, in one place.

What is built in ``dev/go/*`` is pinned by its go.mod and go.sum; ``kubernetes`` there must be of ``KUBERNETES``.
"""

KUBERNETES = "v1.34.4"  # the last minor whose kubelet takes cgroup v1
ENVOY_GATEWAY = "v1.9.1"
VERSITYGW = "v1.8.0"
UV = "0.13.8"
PYTHON_IMAGE = "python:3.11-slim-bookworm"
DEBIAN = "bookworm"

DEBIAN_PACKAGES = (
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "iproute2",
    "ipset",
    "iptables",
    "mmdebstrap",
    "openssl",
    "python3-venv",
    "runc",
)
