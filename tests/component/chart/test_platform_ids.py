"""Clusters that give each namespace a range of user and group ids, as OpenShift does: no other id is admitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests import prepare_job, tensorboard, train_job
from bloomery_operator.manifests.deployment import build_deployment
from bloomery_operator.manifests.job import build_job
from bloomery_operator.settings import Settings
from kubectl_bloomery.cluster.installation import Installation
from kubectl_bloomery.cluster.weights_pod import build_weights_pod
from testing.waiting import eventually
from tests.component.chart.rendering import VARIANTS, Chart, Object, environment, pod_templates
from tests.unit.operator.samples import dataset, inference_service, settings, training_job

if TYPE_CHECKING:
    from testing.api_server import ApiServer

pytestmark = pytest.mark.feature("O6")

FIRST, LAST = 1000680000, 1000689999
_IN_RANGE = f">= {FIRST} && object.spec.securityContext.{{field}} <= {LAST}"
POLICY: Object = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": "id-range"},
    "spec": {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ]
        },
        "validations": [
            {
                "expression": f"!has(object.spec.securityContext.{field}) || object.spec.securityContext.{field} "
                + _IN_RANGE.format(field=field),
                "message": f"{field} must be in the range {FIRST}/10000 of the namespace",
            }
            for field in ("runAsUser", "fsGroup")
        ],
    },
}
BINDING: Object = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicyBinding",
    "metadata": {"name": "id-range"},
    "spec": {
        "policyName": "id-range",
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": {"id-range": "enforced"}}},
    },
}


@pytest.fixture(scope="module")
def chart(program: Callable[[str], Path]) -> Chart:
    return Chart(program("helm"))


@pytest.fixture
def guarded(apiserver: ApiServer, namespace: str) -> Iterator[str]:
    """Give a namespace in which the API server refuses ids out of the range."""
    for manifest in (POLICY, BINDING):
        done = apiserver.kubectl("apply", "-f", "-", input=manifest)
        assert done.returncode == 0, done.stderr
    assert apiserver.kubectl("label", "namespace", namespace, "id-range=enforced").returncode == 0
    eventually(lambda: refusal(apiserver, namespace, pod_of(settings())), "the policy is in force")
    yield namespace
    for manifest in (BINDING, POLICY):
        apiserver.kubectl("delete", "-f", "-", input=manifest)


def refusal(server: ApiServer, namespace: str, spec: Object) -> str:
    """Return the API server's message against a pod; empty if it takes it."""
    # Of classes that do not exist, the server knows nothing; a Job's pods must not restart always.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}
    done = server.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=pod)
    return done.stderr if done.returncode else ""


def pod_of(known: Settings) -> Object:
    service = inference_service()
    deployment = build_deployment(service, service.spec.variants[0], ServedModel(uri="s3://m"), known, replicas=1)
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def workload_pods(known: Settings) -> dict[str, Object]:
    """Return the pods that the operator and the plugin make, by their purpose."""
    images, job = dataset(), training_job({"tensorboard": True})
    installation = Installation(
        release="bloomery",
        chart="bloomery-0.3.0",
        operator_image="example/operator:1",
        trainer_image="example/trainer:1",
        pull_policy="IfNotPresent",
        store_uri="s3://bloomery",
        storage_secret="bloomery-storage",
        downloads_weights=True,
        uses_platform_ids=known.platform_ids,
    )
    return {
        "prepare": build_job(images, prepare_job.build_task(images, known), known)["spec"]["template"]["spec"],
        "train": build_job(job, train_job.build_task(job, [], None, known, stop_token="secret"), known)["spec"][
            "template"
        ]["spec"],
        "tensorboard": tensorboard.build_tensorboard(job, known)[0]["spec"]["template"]["spec"],
        "serve": pod_of(known),
        "weights": build_weights_pod(installation)["spec"],
    }


def test_all_pods_are_admitted_with_platform_ids_and_refused_without(apiserver: ApiServer, guarded: str) -> None:
    fixed, platform = workload_pods(settings()), workload_pods(settings(platform_ids=True))
    for name, spec in fixed.items():
        assert "must be in the range" in refusal(apiserver, guarded, spec), name
    for name, spec in platform.items():
        assert refusal(apiserver, guarded, spec) == "", name


def test_the_charts_pods_are_admitted_with_one_value_and_refused_without(
    chart: Chart, apiserver: ApiServer, guarded: str
) -> None:
    for name, template in pod_templates(chart.render({})):
        assert "must be in the range" in refusal(apiserver, guarded, template["spec"]), name
    for name, template in pod_templates(chart.render({"platformIds": True})):
        assert refusal(apiserver, guarded, template["spec"]) == "", name


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_pod_names_an_id_with_platform_ids(chart: Chart, variant: str) -> None:
    manifests = chart.render(VARIANTS[variant] | {"platformIds": True})
    assert environment(manifests, "bloomery-operator")["BLOOMERY_PLATFORM_IDS"] == "true"
    for name, template in pod_templates(manifests):
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert not {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"} & context.keys(), name
