"""Manifests of the pods that commands of the plugin run in."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.cluster.installation import Installation, _parse_deployment
from kubectl_bloomery.cluster.server_pod import build_server_pod
from kubectl_bloomery.cluster.weights_pod import build_weights_pod


def operator_deployment(**settings: str) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in settings.items()]
    env.append({"name": "BLOOMERY_TRAINER_IMAGE", "value": "example/trainer:1"})
    container = {"image": "example/operator:1", "env": env}
    return {
        "metadata": {"name": "bloomery-operator", "labels": {"app.kubernetes.io/instance": "ours"}},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


def weights_spec(installation: Installation) -> dict[str, Any]:
    spec: dict[str, Any] = build_weights_pod(installation)["spec"]
    return spec


@pytest.mark.feature("O6")
def test_weights_pod_has_the_ids_and_secrets_of_the_installation() -> None:
    plain = weights_spec(_parse_deployment(operator_deployment()))
    assert (plain["securityContext"]["runAsUser"], plain["imagePullSecrets"]) == (10001, [])
    settings = {"BLOOMERY_PLATFORM_IDS": "true", "BLOOMERY_PULL_SECRETS": "registry,mirror"}
    spec = weights_spec(_parse_deployment(operator_deployment(**settings)))
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys()
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]


@pytest.mark.feature("S7")
def test_kit_has_the_texts_of_the_service_not_its_pods() -> None:
    """A change of a text restarts no pod, so the Deployment may have former ones."""
    owner = {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "flowers", "namespace": "demo", "uid": "1"},
        "spec": {"displayName": "Blumen $(HOME)"},
    }
    env = [
        {"name": "MODEL_URI", "value": "s3://b/m"},
        {"name": "DISPLAY_NAME", "value": "Blumne"},
        {"name": "DESCRIPTION", "value": "Fuenf"},
    ]
    deployment = {"spec": {"template": {"spec": {"containers": [{"name": "server", "env": env}]}}}}
    (container,) = build_server_pod(owner, deployment, purpose="kit", image="example/kit:1")["spec"]["containers"]
    assert container["env"] == [env[0], {"name": "DISPLAY_NAME", "value": "Blumen $$(HOME)"}]


MOUNT = {"name": "trusted-cas", "mountPath": "/etc/bloomery-ca", "readOnly": True}
VOLUME = {"name": "trusted-cas", "configMap": {"name": "cas", "optional": True}}
OWNER = {
    "apiVersion": "bloomery.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"name": "flowers", "namespace": "team", "uid": "1"},
    "spec": {},
}


def installation(**fields: Any) -> Installation:
    defaults = {
        "release": "bloomery",
        "chart": "bloomery-0.3.0",
        "operator_image": "operator",
        "trainer_image": "trainer",
        "pull_policy": "Always",
        "store_uri": "s3://bloomery",
        "storage_secret": "bloomery-storage",
        "downloads_weights": True,
    }
    return Installation(**(defaults | fields))


@pytest.mark.feature("O6")
def test_pod_of_weights_has_the_certificates_and_the_proxy_of_trainings() -> None:
    pod = build_weights_pod(installation(ca_config_map="cas", proxies={"HTTPS_PROXY": "http://proxy:3128"}))
    (container,) = pod["spec"]["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values == {"HOME": "/tmp", "HTTPS_PROXY": "http://proxy:3128", "BLOOMERY_CA_FOLDER": "/etc/bloomery-ca"}
    assert MOUNT in container["volumeMounts"]
    assert VOLUME in pod["spec"]["volumes"]


@pytest.mark.feature("O6")
def test_pod_of_weights_has_neither_without_the_values_of_the_chart() -> None:
    pod = build_weights_pod(installation())
    (container,) = pod["spec"]["containers"]
    assert container["env"] == [{"name": "HOME", "value": "/tmp"}]
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["scratch"]


@pytest.mark.feature("O6")
@pytest.mark.parametrize("with_certificates", [True, False])
def test_pod_of_a_kit_has_the_certificates_of_the_serving_pods(with_certificates: bool) -> None:
    models = {"name": "models", "mountPath": "/models"}
    server = {"name": "server", "volumeMounts": [models, *([MOUNT] if with_certificates else [])]}
    volumes = [{"name": "models", "emptyDir": {}}, *([VOLUME] if with_certificates else [])]
    deployment = {"spec": {"template": {"spec": {"containers": [server], "volumes": volumes}}}}
    pod = build_server_pod(OWNER, deployment, purpose="kit", image="kit")
    (container,) = pod["spec"]["containers"]
    assert [mount["name"] for mount in container["volumeMounts"]] == ["scratch", *["trusted-cas"] * with_certificates]
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["scratch", *["trusted-cas"] * with_certificates]
