"""The operator's Deployment, and what it says about the installation."""

from __future__ import annotations

import json
from dataclasses import dataclass

from kubectl_bloomery.kubectl import CommandError, Kubectl, Manifest

_SELECTOR = "app.kubernetes.io/name=bloomery,app.kubernetes.io/component=operator"
_ADVICE = "name the namespace of the chart's release by --release-namespace"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """One release of the chart.

    Attributes:
        release: the release's name.
        trainer_image: the image of the training pods.
        pull_policy: when a node pulls it.
        store_uri: the root folder of the store.
        storage_secret: the Secret with the store's address and keys, in each namespace that works.
        downloads_weights: whether training pods may fetch published weights.
    """

    release: str
    trainer_image: str
    pull_policy: str
    store_uri: str
    storage_secret: str
    downloads_weights: bool


def find_installation(kubectl: Kubectl, release_namespace: str | None) -> Installation:
    """Return the installation of the cluster, or the one of a namespace.

    Raises:
        CommandError: there is none, there are several, or it may not be read.
    """
    scope = f"--namespace={release_namespace}" if release_namespace else "--all-namespaces"
    cluster = Kubectl(context=kubectl.context)
    try:
        listed = cluster.run("get", "deployments.apps", scope, f"--selector={_SELECTOR}", "--output=json")
    except CommandError as error:
        raise CommandError(f"The operator's Deployment can not be read; {_ADVICE}: {error}") from error
    found: list[Manifest] = json.loads(listed)["items"]
    if not found:
        raise CommandError(f"There is no operator in {release_namespace or 'this cluster'}; {_ADVICE}.")
    if len(found) > 1:
        namespaces = ", ".join(sorted(item["metadata"]["namespace"] for item in found))
        raise CommandError(f"There are operators in several namespaces, {namespaces}: {_ADVICE}.")
    return _read(found[0])


def _read(deployment: Manifest) -> Installation:
    (container, *_) = deployment["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: str(entry.get("value", "")) for entry in container.get("env", [])}
    if "BLOOMERY_TRAINER_IMAGE" not in values:
        name = deployment["metadata"]["name"]
        raise CommandError(f"Deployment {name} does not name the trainer's image (BLOOMERY_TRAINER_IMAGE).")
    return Installation(
        release=deployment["metadata"]["labels"].get("app.kubernetes.io/instance", "bloomery"),
        trainer_image=values["BLOOMERY_TRAINER_IMAGE"],
        pull_policy=values.get("BLOOMERY_IMAGE_PULL_POLICY", "IfNotPresent"),
        store_uri=values.get("BLOOMERY_STORE_URI", "s3://bloomery"),
        storage_secret=values.get("BLOOMERY_STORAGE_SECRET", "bloomery-storage"),
        downloads_weights=values.get("BLOOMERY_DOWNLOAD_WEIGHTS", "true") == "true",
    )
