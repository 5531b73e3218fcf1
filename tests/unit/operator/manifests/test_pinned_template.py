"""Pod templates that Deployments keep, and what makes them move on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bloomery_operator.api.inferenceservice import InferenceServiceSpec
from bloomery_operator.domain.labels import POD_TEMPLATE, SPEC_HASH
from bloomery_operator.domain.served_model import ServedModel
from bloomery_operator.manifests.deployment import build_deployment
from bloomery_operator.manifests.pinned_template import has_same_template, keep_template
from bloomery_operator.manifests.tensorboard import build_tensorboard
from tests.unit.operator.samples import Manifest, inference_service, settings, training_job

pytestmark = pytest.mark.feature("O4")

MODEL = ServedModel(uri="s3://models/v1")


def built(*, image: str = "example/serving:1", model: ServedModel = MODEL, **spec: Any) -> Manifest:
    """Return the Deployment of a service with further fields of its variant or spec, as an operator builds it."""
    variant = {name: spec.pop(name) for name in ("resources", "podTemplate", "scratch") if name in spec}
    service = inference_service(further={"v1": variant}, **spec)
    return build_deployment(service, service.spec.variants[0], model, settings(serving_image=image), replicas=1)


def test_record_is_the_template_itself() -> None:
    for deployment in (built(), build_tensorboard(training_job(), settings())[0]):
        assert json.loads(deployment["metadata"]["annotations"][POD_TEMPLATE]) == deployment["spec"]["template"]


@pytest.mark.parametrize(
    "later",
    [
        built(image="example/serving:2"),
        built(image="example/serving:2", displayName="Blumen", description="Arten"),
        built(image="example/serving:2", model=ServedModel(uri="s3://models/v1", name="flowers", version="4")),
        built(image="example/serving:2", replicas=3, strategy="Recreate"),
    ],
    ids=["another image", "other texts", "a later registration", "another number and strategy"],
)
def test_template_is_kept_while_the_users_input_stays(later: Manifest) -> None:
    live = built()
    pinned = keep_template(later, live, adopts=False)
    assert has_same_template(pinned, live)
    assert pinned["metadata"]["annotations"][POD_TEMPLATE] == live["metadata"]["annotations"][POD_TEMPLATE]
    assert not has_same_template(pinned, later)


@pytest.mark.parametrize(
    "later",
    [
        built(resources={"limits": {"memory": "3Gi"}}),
        built(resources={}),
        built(podTemplate={"labels": {"team": "a"}}),
        built(scratch="20Gi"),
        built(auth="None"),
        built(cors={"allowOrigins": ["https://shop.example.com"]}),
        built(explain=True),
    ],
)
def test_users_change_of_pods_takes_the_present_template(later: Manifest) -> None:
    assert keep_template(later, built(image="example/serving:0"), adopts=True) == later


def test_template_without_a_record_is_adopted_without_a_restart_by_hand() -> None:
    live = built(image="example/serving:0")
    for name in (SPEC_HASH, POD_TEMPLATE):
        del live["metadata"]["annotations"][name]
    live["spec"]["template"]["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/restartedAt": "2026-05-01T12:00:00Z",
        "example.com/note": "x",
    }
    template = keep_template(built(), live, adopts=True)["spec"]["template"]
    assert template["spec"] == live["spec"]["template"]["spec"]
    assert template["metadata"]["annotations"] == {"example.com/note": "x"}
    assert keep_template(built(), live, adopts=False) == built()


SAMPLES: dict[str, Any] = {
    "displayName": "Flowers",
    "description": "Species",
    "replicas": 2,
    "strategy": "Recreate",
    "rollout": {"steps": [50]},
    "path": "/default/shop",
    "auth": "None",
    "cors": {"allowOrigins": ["https://shop.example.com"]},
    "explain": True,
    "capture": {"uri": "s3://captures"},
    "feedback": {"keys": ["reviewers"]},
    "autoStop": "1h",
    "stopped": True,
}
"""A value of each field of a spec but the variants."""
FIELDS_WITHOUT_RESTART = {"displayName", "description"}
"""Fields that servers follow without a restart."""


@pytest.mark.parametrize("field", [field.alias for field in InferenceServiceSpec.model_fields.values()])
def test_each_field_of_the_template_moves_the_pods_on_when_it_changes(field: str) -> None:
    if field == "variants":
        return
    changed, before = built(**{field: SAMPLES[field]}), built()
    hashes = {deployment["metadata"]["annotations"][SPEC_HASH] for deployment in (changed, before)}
    is_followed = has_same_template(changed, before) or field in FIELDS_WITHOUT_RESTART
    assert is_followed == (len(hashes) == 1)


@pytest.mark.feature("O7")
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of an earlier version"])
def test_kept_template_loses_annotations_that_are_refused(recorded: bool) -> None:
    live = built(image="example/serving:0")
    live["spec"]["template"]["metadata"]["annotations"] = {
        "container.apparmor.security.beta.kubernetes.io/server": "unconfined",
        "example.com/note": "x",
    }
    live["metadata"]["annotations"][POD_TEMPLATE] = json.dumps(live["spec"]["template"])
    if not recorded:
        for name in (SPEC_HASH, POD_TEMPLATE):
            del live["metadata"]["annotations"][name]
    pinned = keep_template(built(), live, adopts=True)
    assert pinned["spec"]["template"]["metadata"]["annotations"] == {"example.com/note": "x"}
    assert pinned["spec"]["template"]["spec"] == live["spec"]["template"]["spec"]
    assert json.loads(pinned["metadata"]["annotations"][POD_TEMPLATE]) == pinned["spec"]["template"]


@pytest.mark.parametrize("record", ["", "no JSON", "[]", '{"spec": {}}', "5"])
def test_edited_record_is_ignored(record: str) -> None:
    live = built(image="example/serving:0")
    live["metadata"]["annotations"][POD_TEMPLATE] = record
    assert keep_template(built(), live, adopts=True) == built()


def test_template_too_long_for_an_annotation_is_not_recorded() -> None:
    """An object with more than 256 KiB of annotations would be refused."""
    long = {"annotations": {f"example.com/{number}": "x" * 4096 for number in range(32)}}
    deployment = built(podTemplate=long)
    assert POD_TEMPLATE not in deployment["metadata"]["annotations"]
    assert keep_template(built(podTemplate=long, image="example/serving:2"), deployment, adopts=True) == built(
        podTemplate=long, image="example/serving:2"
    )


@pytest.mark.feature("T28")
@pytest.mark.parametrize(
    ("explain", "names"), [(None, []), (False, []), (True, [{"name": "EXPLAIN", "value": "true"}])]
)
def test_servers_explain_only_where_the_service_says_so(explain: bool | None, names: list[Manifest]) -> None:
    deployment = built() if explain is None else built(explain=explain)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    assert [entry for entry in container["env"] if entry["name"] == "EXPLAIN"] == names
    assert (deployment == built()) == (not explain)
