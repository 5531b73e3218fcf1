"""Annotations that a user's pod template must not have: with them, a pod is less confined, or runs images or code.

Container runtimes, network plugins and injectors of sidecars read them. The CRDs have the same lists.
"""

from __future__ import annotations

REFUSED_PREFIXES = (
    # Confinement of containers.
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "cdi.k8s.io/",
    "dev.gvisor.",
    "devices.nri.io",
    "mounts.nri.io",
    "io.katacontainers.",
    "io.kubernetes.cri",
    # Networks of pods.
    "cni.projectcalico.org/",
    "k8s.v1.cni.cncf.io/",
    "v1.multus-cni.io/",
    # Sidecars, and libraries in our containers.
    "admission.datadoghq.com/",
    "config.alpha.linkerd.io/",
    "config.linkerd.io/",
    "consul.hashicorp.com/",
    "dapr.io/",
    "inject.istio.io/",
    "instrumentation.opentelemetry.io/",
    "proxy.istio.io/",
    "sidecar.istio.io/",
    "sidecar.opentelemetry.io/",
    "vault.hashicorp.com/",
)
ALLOWED_KEYS = ("sidecar.istio.io/inject",)
"""Keys with such a prefix that only turn an injector on or off."""


def is_annotation_allowed(key: str) -> bool:
    """Return whether a user's pod template may have an annotation."""
    return key in ALLOWED_KEYS or not key.startswith(REFUSED_PREFIXES)
