"""Manifests of the pods that commands of the plugin run in."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.cluster.installation import Installation, _parse_deployment
from kubectl_bloomery.cluster.kit_pod import build_kit_pod
from kubectl_bloomery.cluster.weights_pod import build_weights_pod


def operator_deployment(**settings: str) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in settings.items()]
    container = {"env": [{"name": "BLOOMERY_TRAINER_IMAGE", "value": "example/trainer:1"}, *env]}
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
def test_kit_has_the_present_texts_of_the_service_not_those_of_its_pods() -> None:
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
    (container,) = build_kit_pod(owner, deployment, "example/kit:1")["spec"]["containers"]
    assert container["env"] == [env[0], {"name": "DISPLAY_NAME", "value": "Blumen $$(HOME)"}]
