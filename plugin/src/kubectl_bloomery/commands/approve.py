"""``kubectl bloomery approve``: lets a rollout go on that waits for a person."""

from __future__ import annotations

from kubectl_bloomery.cluster.inference_service import approval
from kubectl_bloomery.cluster.kubectl import SERVICES, Kubectl
from kubectl_bloomery.options import Context, Namespace, Service


def approve(service: Service, namespace: Namespace = None, context: Context = None) -> None:
    """Let a rollout go on that waits at a step of pauseAt."""
    kubectl = Kubectl(namespace, context)
    percent, annotation = approval(kubectl.get(SERVICES, service))
    kubectl.run("annotate", "--overwrite", f"{SERVICES}/{service}", annotation)
    print(f"{percent} percent is approved; the rollout of {service} goes on when the step is over.")
