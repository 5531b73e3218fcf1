"""Every pinned version of the development cluster, in one place.

What is built in ``dev/go/*`` is pinned by its go.mod and go.sum; ``kubernetes`` there must be of ``KUBERNETES``.
"""

KUBERNETES = "v1.34.4"  # the last minor whose kubelet takes cgroup v1
KUBERNETES_MATRIX = ("v1.30.14", "v1.31.14", "v1.32.13", "v1.33.13", KUBERNETES, "v1.35.4")
"""A version of each minor that the chart takes; `make test-matrix` builds their API servers."""
ENVOY_GATEWAY = "v1.9.1"
VERSITYGW = "v1.8.0"
KUBECONFORM = "v0.8.0"
KWOK = "v0.7.0"
TRAINING_OPERATOR = "v1.8.1"  # Kubeflow's, which ours is measured beside
UV = "0.13.8"
PYTHON_IMAGE = "python:3.11-slim-bookworm"
DEBIAN = "bookworm"

DEBIAN_PACKAGES = {
    "chromium": "chromium",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "etcd-server": "etcd",
    "iproute2": "ip",
    "ipset": "ipset",
    "iptables": "iptables-save",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "runc": "runc",
}
"""Each package with a program of it."""
