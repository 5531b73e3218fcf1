"""InferenceServices: traffic between variants, and messages while a service waits."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from testing.kubernetes_api import Manifest, condition_of
from testing.samples import dataset, inference_service, prepared, trained, training_job, variant
from testing.simulated_controllers import World
from testing.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")


def split(world: World, weights: dict[str, int], **fields: Any) -> dict[str, str]:
    """Make a service of ready-made models; return each variant's revision."""
    variants = [variant(name, weight) for name, weight in weights.items()]
    world.create(inference_service(variants=variants, **fields))
    return {name: world.revision("flowers", name) for name in weights}


def test_a_name_for_people_may_have_any_character(world: World) -> None:
    name = "花 🌸 \\ud83c \x7f \x85 \u2028 \ufeff \uffff"
    deployment = split(world, {"v1": 100}, displayName=name)["v1"]
    container = world.wait_for("deployments", deployment)["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "DISPLAY_NAME", "value": name} in container["env"]


@pytest.mark.feature("S2", "S8")
def test_variants_get_weight_once_they_have_a_ready_pod(world: World) -> None:
    names = split(world, {"v1": 90, "v2": 10})
    world.set_ready(names["v1"], 1)
    # What the one that waits would get goes to the other.
    world.wait_for_weights("flowers", {names["v1"]: 100, names["v2"]: 0})
    message = "Variant 'v2' has 0 of 1 pods ready."
    world.wait_for("inferenceservices", "flowers", lambda m: condition_of(m, "VariantsReady").get("message") == message)
    world.set_ready(names["v2"], 1)
    world.wait_for_weights("flowers", {names["v1"]: 90, names["v2"]: 10})
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    assert world.wait_for("inferenceservices", "flowers")["status"]["traffic"] == "v1=90 v2=10"


def test_a_variant_that_fails_later_keeps_its_weight(world: World) -> None:
    names = split(world, {"v1": 50, "v2": 50})
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 50, names["v2"]: 50})
    world.set_ready(names["v2"], 0)
    world.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "False")
    assert world.weights("flowers") == {names["v1"]: 50, names["v2"]: 50}


@pytest.mark.feature("S8")
def test_patched_weights_are_the_routes_weights(world: World) -> None:
    names = split(world, {"v1": 90, "v2": 10})
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 90, names["v2"]: 10})
    changed = [variant("v1", 0), variant("v2", 100)]
    world.patch("inferenceservices", "flowers", {"spec": {"variants": changed}})
    world.wait_for_weights("flowers", {names["v1"]: 0, names["v2"]: 100})
    assert world.names("deployments") == set(names.values())


def test_edited_or_deleted_children_are_restored(world: World) -> None:
    name = split(world, {"v1": 100})["v1"]
    world.set_ready(name, 1)
    world.wait_for_weights("flowers", {name: 100})
    # Only once nothing is left to do can these be seen by the watch alone.
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    world.patch("deployments", name, {"spec": {"replicas": 5}, "metadata": {"labels": {"bloomery.dev/variant": "x"}}})
    world.wait_for("deployments", name, lambda m: m["spec"]["replicas"] == 1)
    world.wait_for("deployments", name, lambda m: m["metadata"]["labels"]["bloomery.dev/variant"] == "v1")
    world.patch("services", name, {"spec": {"selector": {"bloomery.dev/revision": "another"}}})
    world.wait_for("services", name, lambda m: m["spec"]["selector"]["bloomery.dev/revision"] == name)
    rule = world.wait_for("httproutes", "flowers")["spec"]["rules"][-1]
    world.patch("httproutes", "flowers", {"spec": {"rules": [rule | {"backendRefs": []}]}})
    world.wait_for_weights("flowers", {name: 100})
    for plural, child in (("services", name), ("httproutes", "flowers")):
        world.delete(plural, child)
        world.wait_for(plural, child)


def test_weights_change_although_the_storage_keys_were_taken_away(world: World) -> None:
    names = split(world, {"v1": 90, "v2": 10})
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 90, names["v2"]: 10})
    world.delete("secrets", "bloomery-storage")
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 50), variant("v2", 50)]}})
    world.wait_for_weights("flowers", {names["v1"]: 50, names["v2"]: 50})


@pytest.mark.feature("S8", "S15")
def test_variant_scaled_to_0_loses_its_weight_before_its_pods(world: World) -> None:
    names = split(world, {"v1": 50, "v2": 30, "v3": 20})
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 50, names["v2"]: 30, names["v3"]: 20})
    world.accept_route("flowers")
    changed = [variant("v1", 50), variant("v2", 30, replicas=0), variant("v3", 20)]
    world.patch("inferenceservices", "flowers", {"spec": {"variants": changed}})
    world.wait_for_weights("flowers", {names["v1"]: 71.43, names["v2"]: 0, names["v3"]: 28.57})
    world.wait_for_condition("inferenceservices", "flowers", "RouteReady", "False", reason="RoutePending")
    assert world.wait_for("deployments", names["v2"])["spec"]["replicas"] == 1
    world.accept_route("flowers")
    world.wait_for("deployments", names["v2"], lambda d: d["spec"]["replicas"] == 0)
    world.set_ready(names["v2"], 0)
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")


@pytest.mark.feature("S8", "S15")
def test_new_model_of_an_autoscaled_variant_starts_with_as_many_pods(world: World) -> None:
    """The old model's number of pods counts."""
    scaled = {"autoscaling": {"min": 1, "max": 8}}
    world.create(inference_service(variants=[variant("v1", 100, **scaled)]))
    first = world.revision("flowers", "v1")
    world.set_ready(first, 1)
    world.wait_for_weights("flowers", {first: 100})
    # As the autoscaler's controller does.
    world.patch("deployments", first, {"spec": {"replicas": 6}}, subresource="scale")
    world.set_ready(first, 6)
    world.wait_for_condition("inferenceservices", "flowers", "VariantsReady", "True")
    second = [variant("v1", 100, model="s3://models/second", **scaled)]
    world.patch("inferenceservices", "flowers", {"spec": {"variants": second}})
    (new,) = eventually(lambda: set(world.deployments_of("flowers", "v1")) - {first}, "a second revision")
    assert world.wait_for("deployments", new)["spec"]["replicas"] == 6
    world.set_ready(new, 5)
    world.wait_for("inferenceservices", "flowers", lambda m: m["status"]["readyReplicas"] == 11)
    assert world.weights("flowers")[first] == 100
    world.set_ready(new, 6)
    world.wait_for_weights("flowers", {new: 100})
    assert world.wait_for("deployments", new)["spec"]["replicas"] == 6
    world.patch("deployments", new, {"spec": {"replicas": 2}}, subresource="scale")
    world.wait_for("inferenceservices", "flowers", lambda m: m["status"]["ready"].endswith("/2"))
    assert world.wait_for("deployments", new)["spec"]["replicas"] == 2


@pytest.mark.feature("S9")
def test_a_header_picks_any_variant_at_the_services_path(world: World) -> None:
    names = split(world, {"v1": 100, "v2": 0}, path=f"/{world.namespace}/blumen")
    world.set_ready(names["v1"], 1)
    route = world.wait_for("httproutes", "flowers")
    *direct, weighted = route["spec"]["rules"]
    picked = {
        rule["matches"][0]["headers"][0]["value"]: [ref["name"] for ref in rule["backendRefs"]] for rule in direct
    }
    assert picked == {"v1": [names["v1"]], "v2": [names["v2"]]}
    assert "headers" not in weighted["matches"][0]
    assert {rule["matches"][0]["path"]["value"] for rule in route["spec"]["rules"]} == {f"/{world.namespace}/blumen"}
    assert route["spec"]["parentRefs"][0]["namespace"] == "gateways"


def test_the_old_model_runs_beside_the_new_one_until_drained(world: World) -> None:
    names = split(world, {"v1": 100})
    world.set_ready(names["v1"], 1)
    world.wait_for_weights("flowers", {names["v1"]: 100})

    second = [variant("v1", 100, model="s3://models/second")]
    world.patch("inferenceservices", "flowers", {"spec": {"variants": second}})
    both = eventually(
        lambda: both if len(both := world.deployments_of("flowers", "v1")) == 2 else None, "a second revision"
    )
    (new,) = set(both) - {names["v1"]}
    # The old one answers until the new one can.
    assert world.weights("flowers") == {names["v1"]: 100}
    world.set_ready(new, 1)
    world.wait_for_weights("flowers", {new: 100})
    assert world.get("deployments", names["v1"]) is not None
    world.accept_route("flowers")
    eventually(lambda: world.get("deployments", names["v1"]) is None, "the old revision is removed", seconds=30)
    world.wait_until_gone("services", names["v1"])
    assert world.get("services", new) is not None


def test_a_removed_variant_loses_its_traffic_and_then_its_pods(world: World) -> None:
    names = split(world, {"v1": 50, "v2": 50})
    for name in names.values():
        world.set_ready(name, 1)
    world.wait_for_weights("flowers", {names["v1"]: 50, names["v2"]: 50})
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 100)]}})
    world.wait_for_weights("flowers", {names["v1"]: 100})
    retired = world.wait_for(
        "deployments",
        names["v2"],
        lambda d: "bloomery.dev/retired-at" in d["metadata"]["annotations"],
    )
    assert retired["spec"]["replicas"] == 1
    # Asked for again before it is gone, it stays.
    world.patch("inferenceservices", "flowers", {"spec": {"variants": [variant("v1", 50), variant("v2", 50)]}})
    world.wait_for_weights("flowers", {names["v1"]: 50, names["v2"]: 50})
    world.wait_for(
        "deployments",
        names["v2"],
        lambda d: "bloomery.dev/retired-at" not in d["metadata"]["annotations"],
    )


@pytest.mark.feature("S2")
def test_a_trained_model_is_served_after_its_job_is_gone(world: World) -> None:
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.create(training_job())
    world.create(inference_service())
    world.succeed("flowers-train", trained())
    revision = world.revision("flowers", "v1")
    world.set_ready(revision, 1)
    world.wait_for_weights("flowers", {revision: 100})
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    world.delete("trainingjobs", "flowers")
    world.patch("inferenceservices", "flowers", {"spec": {"replicas": 2}})
    world.wait_for("deployments", revision, lambda d: d["spec"]["replicas"] == 2)
    # Its status knows the model too, where somebody deletes even the Deployment.
    deleted = world.wait_for("deployments", revision)["metadata"]["uid"]
    world.delete("deployments", revision)
    world.wait_for("deployments", revision, lambda d: d["metadata"]["uid"] != deleted)
    world.set_ready(revision, 2)
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")
    assert world.wait_for("inferenceservices", "flowers")["status"]["variants"][0]["model"] == "flowers/1"


def test_a_service_of_a_failed_or_missing_job_says_so(world: World) -> None:
    world.create(inference_service())
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="TrainingJobNotFound")
    world.create(dataset())
    world.succeed("flowers-prepare", prepared())
    world.create(training_job())
    world.fail("flowers-train", {"error": {"reason": "Bad", "message": "So it is."}}, exit_code=2)
    ready = world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="TrainingJobFailed")
    assert ready["message"].endswith("So it is.")


@pytest.mark.feature("S5")
def test_the_older_service_keeps_a_path_until_it_is_free(world: World) -> None:
    """The younger service gets the path then."""
    path = f"/{world.namespace}/shop"
    world.create(inference_service("first", path=path, variants=[variant("v1", 100)]))
    world.set_ready(world.revision("first", "v1"), 1)
    world.wait_for("httproutes", "first")
    # Ages count in whole seconds.
    eventually(lambda: _second(world) > _created(world, "first"), "the next second")
    world.create(inference_service("second", path=f"{path}/all", variants=[variant("v1", 100)]))
    world.set_ready(world.revision("second", "v1"), 1)
    ready = world.wait_for_condition("inferenceservices", "second", "RouteReady", "False", reason="PathTaken")
    assert f"'{path}' of an older service" in ready["message"]
    assert world.get("httproutes", "second") is None
    assert "url" not in world.get("inferenceservices", "second")["status"]
    world.delete("inferenceservices", "first")
    world.wait_for("httproutes", "second")


@pytest.mark.feature("S5")
def test_a_service_yields_its_path_to_an_older_one(world: World) -> None:
    """It gets the path back when it is free."""
    path = f"/{world.namespace}/mall"
    world.create(inference_service("first", path=f"{path}-of-before", variants=[variant("v1", 100)]))
    # Ages count in whole seconds.
    eventually(lambda: _second(world) > _created(world, "first"), "the next second")
    world.create(inference_service("second", path=f"{path}/all", variants=[variant("v1", 100)]))
    revision = world.revision("second", "v1")
    world.set_ready(revision, 1)
    world.wait_for("httproutes", "second")
    world.wait_for("backendtrafficpolicies", "second")

    # What else stands in its way does not keep the route there.
    world.delete("secrets", "bloomery-storage")
    another = [variant("v1", 100, model="s3://models/another")]
    world.patch("inferenceservices", "second", {"spec": {"variants": another}})
    world.wait_for_condition("inferenceservices", "second", "Ready", "False", reason="SecretNotFound")
    world.patch("inferenceservices", "first", {"spec": {"path": path}})
    world.wait_until_gone("httproutes", "second")
    world.wait_until_gone("backendtrafficpolicies", "second")
    world.wait_for_condition("inferenceservices", "second", "RouteReady", "False", reason="PathTaken")
    world.make_storage_secret()
    world.patch("inferenceservices", "first", {"spec": {"path": f"{path}-of-before"}})
    world.wait_for_weights("second", {revision: 100})
    world.wait_for("backendtrafficpolicies", "second")

    world.patch("inferenceservices", "second", {"spec": {"path": f"{path}-of-before"}})
    world.wait_until_gone("httproutes", "second")
    assert world.names("deployments") >= {revision}


@pytest.mark.feature("S19")
def test_a_service_that_captures_waits_for_its_secret(world: World) -> None:
    capture = {"uri": "s3://captures/here", "secretRef": {"name": "captures"}, "percent": 5}
    world.create(inference_service(variants=[variant("v1", 100)], capture=capture, feedback={"keys": ["reviewers"]}))
    ready = world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="SecretNotFound")
    assert "'captures'" in ready["message"] and "spec.capture.secretRef" in ready["message"]
    world.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "captures"},
            "stringData": {"AWS_ACCESS_KEY_ID": "k"},
        }
    )
    deployment = world.wait_for("deployments", world.revision("flowers", "v1"))
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert server["envFrom"][-1] == {"prefix": "CAPTURE_STORE_", "secretRef": {"name": "captures"}}
    values = {entry["name"]: entry.get("value") for entry in server["env"]}
    assert (values["CAPTURE_URI"], values["CAPTURE_PERCENT"]) == ("s3://captures/here", "5")
    assert values["FEEDBACK_KEYS"] == "reviewers"


def test_requests_that_a_pod_loses_are_sent_again_by_envoy_gateway(world: World) -> None:
    name = split(world, {"v1": 100})["v1"]
    world.set_ready(name, 1)
    policy = world.wait_for("backendtrafficpolicies", "flowers")
    assert policy["spec"]["targetRefs"][0]["name"] == world.wait_for("httproutes", "flowers")["metadata"]["name"]
    world.patch("inferenceservices", "flowers", {"spec": {"replicas": 2}})
    world.wait_for("deployments", name, lambda d: d["spec"]["replicas"] == 2)
    after = world.wait_for("backendtrafficpolicies", "flowers")
    assert after["metadata"]["resourceVersion"] == policy["metadata"]["resourceVersion"]


def test_a_refused_route_is_reported_with_the_gateways_message(world: World) -> None:
    names = split(world, {"v1": 100})
    world.set_ready(names["v1"], 1)
    world.wait_for("httproutes", "flowers")
    world.wait_for_condition("inferenceservices", "flowers", "RouteReady", "False", reason="RoutePending")
    world.accept_route("flowers", accepted=False, message="No listener takes routes of this namespace.")
    refused = world.wait_for_condition(
        "inferenceservices", "flowers", "RouteReady", "False", reason="NotAllowedByListeners"
    )
    assert refused["message"].endswith("No listener takes routes of this namespace.")
    world.accept_route("flowers")
    world.wait_for_condition("inferenceservices", "flowers", "Ready", "True")


@pytest.mark.feature("S13")
def test_keys_that_users_change_reach_the_pods_as_digests(world: World) -> None:
    split(world, {"v1": 100})
    secret = world.wait_for("secrets", "flowers-api-key")
    key = base64.b64decode(secret["data"]["default"]).decode()
    assert len(key) >= 43
    world.wait_for("secrets", "flowers-api-key-digests", lambda s: _digests(s) == {"default": _digest(key)})

    added = base64.b64encode(b"of-alice\n").decode()
    world.patch("secrets", "flowers-api-key", {"data": {"default": None, "alice": added}})
    world.wait_for("secrets", "flowers-api-key-digests", lambda s: _digests(s) == {"alice": _digest("of-alice")})
    remaining = world.wait_for("secrets", "flowers-api-key")
    assert set(remaining["data"]) == {"alice"}


def test_an_open_service_has_no_keys(world: World) -> None:
    names = split(world, {"v1": 100}, auth="None")
    deployment = world.wait_for("deployments", names["v1"])
    variables = {e["name"] for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert "API_KEYS_DIR" not in variables
    assert world.names("secrets") == {"bloomery-storage", "flowers-comparison"}


@pytest.mark.parametrize(
    "foreign",
    [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "flowers"},
            "spec": {"rules": [{"backendRefs": [{"name": "shop", "port": 80}]}]},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "flowers-api-key-digests"}, "data": {}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "flowers-api-key"}, "data": {"default": "YQ=="}},
    ],
    ids=["route", "digests", "keys"],
)
def test_foreign_objects_are_left_as_they_are(world: World, foreign: Manifest) -> None:
    plural = f"{foreign['kind'].lower()}s"
    before = world.create(foreign)
    world.create(inference_service(variants=[variant("v1", 100)]))
    if plural == "httproutes":
        world.set_ready(world.revision("flowers", "v1"), 1)
    taken = world.wait_for_condition("inferenceservices", "flowers", "Ready", "False", reason="NameTaken")
    assert foreign["metadata"]["name"] in taken["message"]
    after = world.wait_for(plural, foreign["metadata"]["name"])
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    world.delete(plural, foreign["metadata"]["name"])
    world.wait_for(plural, foreign["metadata"]["name"], lambda m: m["metadata"].get("ownerReferences"))


def test_a_server_that_crashes_is_reported_in_its_own_words(world: World) -> None:
    names = split(world, {"v1": 100})
    pod = world.run_server(names["v1"], ip="127.66.0.9")
    message = '{"error": {"reason": "DigestMismatch", "message": "The model is another one."}}'
    container = {"name": "server", "image": "i", "imageID": "", "ready": False, "restartCount": 3}
    container["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    container["lastState"] = {"terminated": {"exitCode": 3, "message": message}}
    status = {"phase": "Running", "conditions": [], "containerStatuses": [container]}
    world.patch("pods", pod, {"status": status}, subresource="status")
    world.set_ready(names["v1"], 0)
    waiting = world.wait_for_condition(
        "inferenceservices", "flowers", "VariantsReady", "False", reason="DigestMismatch"
    )
    assert waiting["message"] == "Variant 'v1': The model is another one."
    shown = world.wait_for("inferenceservices", "flowers")
    assert shown["status"]["variants"][0]["message"] == waiting["message"]
    assert condition_of(shown, "Ready")["status"] == "False"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _digests(secret: Manifest) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret.get("data", {}).items()}


def _created(world: World, name: str) -> str:
    created: str = world.wait_for("inferenceservices", name)["metadata"]["creationTimestamp"]
    return created


def _second(world: World) -> str:
    review = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "now", "namespace": world.namespace}}
    url = f"/api/v1/namespaces/{world.namespace}/configmaps?dryRun=All"
    created: str = world.client.post(url, json=review).json()["metadata"]["creationTimestamp"]
    return created
