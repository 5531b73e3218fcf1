"""A forward proxy and certificates of private CAs in every pod of the operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests import prepare_job, register_job, tensorboard, train_job
from bloomery_operator.manifests.deployment import build_deployment
from bloomery_operator.manifests.job import build_job
from bloomery_operator.settings import Settings
from tests.unit.operator.samples import dataset, inference_service, settings, training_job

pytestmark = pytest.mark.feature("O6")

PROXY = {"https_proxy": "http://proxy:3128", "no_proxy": ".svc,10.0.0.0/8"}


def preparation(chosen: Settings) -> dict[str, Any]:
    return build_job(dataset(), prepare_job.build_task(dataset(), chosen), chosen)


def training(chosen: Settings) -> dict[str, Any]:
    return build_job(
        training_job(), train_job.build_task(training_job(), [], None, chosen, stop_token="secret"), chosen
    )


def registration(chosen: Settings) -> dict[str, Any]:
    return build_job(training_job(), register_job.build_task(training_job(), "hash"), chosen)


def serving(chosen: Settings) -> dict[str, Any]:
    service = inference_service()
    return build_deployment(service, service.spec.variants[0], ServedModel(uri="s3://a/b"), chosen, replicas=1)


def curves(chosen: Settings) -> dict[str, Any]:
    return tensorboard.build_tensorboard(training_job(), chosen)[0]


PODS = pytest.mark.parametrize("build", [preparation, registration, serving, curves])


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return pod


def values_of(pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


@PODS
def test_pod_gets_the_certificates_of_its_namespace(build: Callable[[Settings], dict[str, Any]]) -> None:
    pod = pod_of(build(settings(ca_config_map="cas")))
    (container,) = pod["containers"]
    folder = values_of(pod)["BLOOMERY_CA_FOLDER"]
    assert {"name": "trusted-cas", "mountPath": folder, "readOnly": True} in container["volumeMounts"]
    # A namespace without the ConfigMap is not stopped by that.
    assert {"name": "trusted-cas", "configMap": {"name": "cas", "optional": True}} in pod["volumes"]
    assert not [mount for mount in container["volumeMounts"] if folder.startswith(f"{mount['mountPath']}/")]


@PODS
def test_pod_gets_the_proxy_in_both_spellings(build: Callable[[Settings], dict[str, Any]]) -> None:
    values = values_of(pod_of(build(settings(**PROXY))))
    assert {values["HTTPS_PROXY"], values["https_proxy"]} == {"http://proxy:3128"}
    assert {values["NO_PROXY"], values["no_proxy"]} == {".svc,10.0.0.0/8"}
    assert "HTTP_PROXY" not in values


@PODS
def test_pod_stays_as_it_was_without_proxy_and_certificates(build: Callable[[Settings], dict[str, Any]]) -> None:
    values = values_of(pod_of(build(settings(no_proxy=".svc"))))
    assert not {"NO_PROXY", "no_proxy", "BLOOMERY_CA_FOLDER"} & values.keys()
    assert build(settings(no_proxy=".svc")) == build(settings())
