"""Additions to all pods from the chart's values: a forward proxy, and the certificates of private CAs."""

from __future__ import annotations

from bloomery_operator.api.base import Manifest
from bloomery_operator.settings import Settings

CA_FOLDER = "/etc/bloomery-ca"
"""Folder of the certificates; not below the configuration's, as a volume that is read-only takes no mount points."""

_CA_VOLUME = "trusted-cas"


def with_network(pod: Manifest, settings: Settings) -> Manifest:
    """Return a pod's spec with what its containers need to reach servers outside of the cluster."""
    environment = _environment(settings)
    if not environment:
        return pod
    mounts, volumes = _certificates(settings)
    containers = [
        container
        | {"env": [*container.get("env", ()), *environment]}
        | ({"volumeMounts": [*container.get("volumeMounts", ()), *mounts]} if mounts else {})
        for container in pod["containers"]
    ]
    return pod | {"containers": containers} | ({"volumes": [*pod["volumes"], *volumes]} if volumes else {})


def _environment(settings: Settings) -> list[Manifest]:
    values = {"HTTP_PROXY": settings.http_proxy, "HTTPS_PROXY": settings.https_proxy}
    if any(values.values()):
        values["NO_PROXY"] = settings.no_proxy
    # Some programs read the names in capitals, others those in small letters.
    values |= {name.lower(): value for name, value in values.items()}
    values["BLOOMERY_CA_FOLDER"] = CA_FOLDER if settings.ca_config_map else ""
    return [{"name": name, "value": value} for name, value in values.items() if value]


def _certificates(settings: Settings) -> tuple[list[Manifest], list[Manifest]]:
    """Return the mounts and the volumes of the certificates."""
    if not settings.ca_config_map:
        return [], []
    # Optional: a namespace may need none of the servers whose certificates these are for.
    source = {"name": settings.ca_config_map, "optional": True}
    mount = {"name": _CA_VOLUME, "mountPath": CA_FOLDER, "readOnly": True}
    return [mount], [{"name": _CA_VOLUME, "configMap": source}]
