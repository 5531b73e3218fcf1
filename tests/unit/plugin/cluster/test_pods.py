"""Pods that commands of the plugin make: with the network of the operator's pods."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.cluster.installation import Installation
from kubectl_bloomery.cluster.kit_pod import build_kit_pod
from kubectl_bloomery.cluster.weights_pod import build_weights_pod

pytestmark = pytest.mark.feature("O6")

MOUNT = {"name": "trusted-cas", "mountPath": "/etc/bloomery-ca", "readOnly": True}
VOLUME = {"name": "trusted-cas", "configMap": {"name": "cas", "optional": True}}
OWNER = {
    "apiVersion": "bloomery.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"name": "flowers", "namespace": "team", "uid": "1"},
}


def installation(**fields: Any) -> Installation:
    defaults = {
        "release": "bloomery",
        "trainer_image": "trainer",
        "pull_policy": "Always",
        "store_uri": "s3://bloomery",
        "storage_secret": "bloomery-storage",
        "downloads_weights": True,
    }
    return Installation(**(defaults | fields))


def test_pod_of_weights_has_the_certificates_and_the_proxy_of_trainings() -> None:
    pod = build_weights_pod(installation(ca_config_map="cas", proxies={"HTTPS_PROXY": "http://proxy:3128"}))
    (container,) = pod["spec"]["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values == {"HOME": "/tmp", "HTTPS_PROXY": "http://proxy:3128", "BLOOMERY_CA_FOLDER": "/etc/bloomery-ca"}
    assert MOUNT in container["volumeMounts"]
    assert VOLUME in pod["spec"]["volumes"]


def test_pod_of_weights_has_neither_without_the_values_of_the_chart() -> None:
    pod = build_weights_pod(installation())
    (container,) = pod["spec"]["containers"]
    assert container["env"] == [{"name": "HOME", "value": "/tmp"}]
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["scratch"]


@pytest.mark.parametrize("with_certificates", [True, False])
def test_pod_of_a_kit_has_the_certificates_of_the_serving_pods(with_certificates: bool) -> None:
    models = {"name": "models", "mountPath": "/models"}
    server = {"name": "server", "volumeMounts": [models, *([MOUNT] if with_certificates else [])]}
    volumes = [{"name": "models", "emptyDir": {}}, *([VOLUME] if with_certificates else [])]
    deployment = {"spec": {"template": {"spec": {"containers": [server], "volumes": volumes}}}}
    pod = build_kit_pod(OWNER, deployment, "kit")
    (container,) = pod["spec"]["containers"]
    assert [mount["name"] for mount in container["volumeMounts"]] == ["scratch", *["trusted-cas"] * with_certificates]
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["scratch", *["trusted-cas"] * with_certificates]
