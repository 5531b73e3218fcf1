"""Settings of the installation, read from the operator's Deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubectl_bloomery.cluster.kubectl import Kubectl, Manifest
from kubectl_bloomery.cluster.resources_in_use import CHART_LABEL
from kubectl_bloomery.errors import CommandError

_SELECTOR = "app.kubernetes.io/name=bloomery,app.kubernetes.io/component=operator"
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_HINT = "name the namespace of the chart's release by --release-namespace"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """A release of the chart.

    Attributes:
        release: the release's name.
        chart: the chart's name and version; empty if it was installed without helm.
        operator_image: the image of the operator.
        trainer_image: the image of the training pods.
        pull_policy: the pull policy of that image.
        store_uri: the root folder of the store.
        storage_secret: the Secret in each namespace of jobs that contains the store's address and keys.
        downloads_weights: whether training pods may download published weights.
        pull_secrets: the Secrets with the registry's credentials, in each namespace of jobs.
        uses_platform_ids: whether pods leave their user and group ids to the platform, as on OpenShift.
        ca_config_map: the ConfigMap with certificates of private CAs; empty: none.
        proxies: the variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the pods, as far as they are set.
    """

    release: str
    chart: str
    operator_image: str
    trainer_image: str
    pull_policy: str
    store_uri: str
    storage_secret: str
    downloads_weights: bool
    pull_secrets: tuple[str, ...] = ()
    uses_platform_ids: bool = False
    ca_config_map: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)


def find_installation(kubectl: Kubectl, release_namespace: str | None) -> Installation:
    """Return the installation in a namespace, by default the only one of the cluster.

    Raises:
        CommandError: there is no installation, there are several, or the user may not read it.
    """
    scope = f"--namespace={release_namespace}" if release_namespace else "--all-namespaces"
    try:
        deployments = Kubectl(context=kubectl.context).list_objects(
            "deployments.apps", scope, f"--selector={_SELECTOR}"
        )
    except CommandError as error:
        raise CommandError(f"The operator's Deployment cannot be read; {_HINT}: {error}") from error
    if not deployments:
        raise CommandError(f"There is no operator in {release_namespace or 'this cluster'}; {_HINT}.")
    if len(deployments) > 1:
        namespaces = ", ".join(sorted(item["metadata"]["namespace"] for item in deployments))
        raise CommandError(f"There are operators in several namespaces, {namespaces}: {_HINT}.")
    return _parse_deployment(deployments[0])


def _parse_deployment(deployment: Manifest) -> Installation:
    (container, *_) = deployment["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: str(entry.get("value", "")) for entry in container.get("env", [])}
    if "BLOOMERY_TRAINER_IMAGE" not in values:
        name = deployment["metadata"]["name"]
        raise CommandError(f"Deployment {name} does not name the trainer's image (BLOOMERY_TRAINER_IMAGE).")
    return Installation(
        release=deployment["metadata"]["labels"].get("app.kubernetes.io/instance", "bloomery"),
        chart=deployment["metadata"]["labels"].get(CHART_LABEL, ""),
        operator_image=container["image"],
        trainer_image=values["BLOOMERY_TRAINER_IMAGE"],
        pull_policy=values.get("BLOOMERY_IMAGE_PULL_POLICY", "IfNotPresent"),
        store_uri=values.get("BLOOMERY_STORE_URI", "s3://bloomery"),
        storage_secret=values.get("BLOOMERY_STORAGE_SECRET", "bloomery-storage"),
        downloads_weights=values.get("BLOOMERY_DOWNLOAD_WEIGHTS", "true") == "true",
        pull_secrets=tuple(filter(None, values.get("BLOOMERY_PULL_SECRETS", "").split(","))),
        uses_platform_ids=values.get("BLOOMERY_PLATFORM_IDS", "false") == "true",
        ca_config_map=values.get("BLOOMERY_CA_CONFIG_MAP", ""),
        proxies={name: value for name in _PROXY_VARIABLES if (value := values.get(f"BLOOMERY_{name}"))},
    )
