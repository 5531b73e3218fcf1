"""Traffic and status of an InferenceService in each situation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest

from bloomery_operator.api import InferenceService
from bloomery_operator.api.inferenceservice import AbortOn, InferenceServiceStatus, Rollout
from bloomery_operator.api.reasons import Reason
from bloomery_operator.domain.served_model import ServedModel, model_from_training_job, revision_name
from bloomery_operator.domain.service_lifecycle import Lifecycle
from bloomery_operator.domain.traffic import Backend, Traffic
from bloomery_operator.domain.verdict import Verdict
from bloomery_operator.manifests.http_route import build_route
from bloomery_operator.status.inferenceservice import Outcome, derive_status
from bloomery_operator.status.service_facts import ServiceFacts
from bloomery_operator.status.traffic_plan import (
    MAX_DRAIN,
    MIN_IDLE,
    compared_revision,
    desired_replicas,
    is_drained,
    plan_traffic,
    retired_deployments,
)
from bloomery_operator.status.workloads import DeploymentView, PodView
from testing.crds import read_schema
from tests.unit.operator.samples import NOW, Manifest, inference_service, settings, training_job

FORMER = "flowers--v1-former"
THREE = {"v1": 50, "v2": 30, "v3": 20}
BOTH = {"v1": 1, "v2": 1}
OFF: dict[str, Manifest] = {"v2": {"replicas": 0}}
SCALED: dict[str, Manifest] = {"v1": {"autoscaling": {"min": 2, "max": 8}}}
NEW_ROUTE = {"metadata": {"generation": 2}, "status": {"parents": []}}
"""A route that the gateway has not looked at yet."""


def revision(service: InferenceService, variant: str) -> str:
    (spec,) = [v for v in service.spec.variants if v.name == variant]
    return revision_name(service, spec, ServedModel(uri=f"s3://models/{variant}"))


def deployment(name: str, variant: str, ready: int, **fields: Any) -> DeploymentView:
    defaults: dict[str, Any] = {"replicas": 1, "settled": True, "retired_at": None}
    return DeploymentView(name=name, variant=variant, ready=ready, **(defaults | fields))


def route_to(service: InferenceService, weights: Mapping[str, int]) -> Manifest:
    backends = [Backend(name.split("--")[1].rsplit("-", 1)[0], name, weight) for name, weight in weights.items()]
    route = build_route(service, Traffic(backends=tuple(backends)), settings())
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "observedGeneration": 1}
    return route | {"status": {"parents": [{"conditions": [accepted]}]}}


def observe(
    weights: Mapping[str, int],
    ready: Mapping[str, int],
    *,
    routed: Mapping[str, int] | None = None,
    former: int | None = None,
    further: Mapping[str, Manifest] | None = None,
    **fields: Any,
) -> ServiceFacts:
    """Observe a service; a variant without an entry in ``ready`` is not deployed, ``former`` is v1's old revision."""
    service = inference_service(weights, further=further)
    deployments = [deployment(revision(service, name), name, pods) for name, pods in ready.items()]
    if former is not None:
        deployments.append(deployment(FORMER, "v1", former, replicas=max(1, former)))
    named = {FORMER if name == "former" else revision(service, name): weight for name, weight in (routed or {}).items()}
    defaults: dict[str, Any] = {
        "now": NOW,
        "models": {name: ServedModel(uri=f"s3://models/{name}") for name in weights},
        "pods": {},
        "has_gateway": True,
        "gateway_address": "http://gateway",
        "lifecycle": Lifecycle(started_at=None),
    }
    defaults["route"] = route_to(service, named) if routed else None
    return ServiceFacts(
        service=service,
        deployments={d.name: d for d in deployments},
        **(defaults | fields),
    )


def status_of(facts: ServiceFacts, *, blocked_by: Verdict | None = None) -> InferenceServiceStatus:
    """Return the status of a service whose route stays as it was observed."""
    return derive_status(facts, plan_traffic(facts), Outcome(route=facts.route, blocked_by=blocked_by))


SAID = '{"error": {"reason": "DigestMismatch", "message": "The model is another one."}}'
BROKEN = {revision(inference_service(), "v1"): (PodView("server", "Running", termination_message=SAID),)}
"""A pod of v1 whose model is not the one that was named."""


def planned(facts: ServiceFacts) -> dict[str, int]:
    """Return the plan's weights in percent."""
    backends = plan_traffic(facts).traffic.backends
    return {"former" if b.revision == FORMER else b.variant: round(b.weight / 100) for b in backends}


@pytest.mark.parametrize(
    ("facts", "plan"),
    [
        (observe({"v1": 100}, {}), {}),
        (observe({"v1": 100}, {"v1": 0}), {}),
        (observe({"v1": 100}, {"v1": 1}), {"v1": 100}),
        (observe({"v1": 90, "v2": 10}, {"v1": 1, "v2": 0}), {"v1": 100, "v2": 0}),
        (observe({"v1": 90, "v2": 10}, {"v1": 1}), {"v1": 100}),
        (observe({"v1": 90, "v2": 10}, {"v1": 0, "v2": 1}), {"v1": 0, "v2": 100}),
        (observe({"v1": 90, "v2": 10}, {"v1": 1, "v2": 1}), {"v1": 90, "v2": 10}),
        (observe({"v1": 90, "v2": 10}, {"v1": 0, "v2": 1}, routed={"v1": 90, "v2": 10}), {"v1": 90, "v2": 10}),
        (observe({"v1": 0, "v2": 100}, {"v1": 1, "v2": 0}, routed={"v1": 100, "v2": 0}), {}),
        (observe({"v1": 100}, {"v1": 0}, former=1, routed={"former": 100}), {"former": 100}),
        (observe({"v1": 100}, {"v1": 0}, former=0, routed={"former": 100}), {"former": 100}),
        (observe({"v1": 100}, {"v1": 1}, former=1, routed={"former": 100}), {"v1": 100}),
        (observe({"v1": 100}, {}, former=1, routed={"former": 100}), {"former": 100}),
        (observe(THREE, {"v1": 1, "v2": 1, "v3": 1}), THREE),
        (observe(THREE, {"v1": 1, "v2": 0, "v3": 1}), {"v1": 71, "v2": 0, "v3": 29}),
        (
            observe(THREE, {"v1": 1, "v2": 1, "v3": 1}, routed=THREE, further=OFF),
            {"v1": 71, "v2": 0, "v3": 29},
        ),
    ],
    ids=[
        "nothing deployed",
        "nothing ready",
        "ready",
        "the second waits",
        "the second is not deployed",
        "the first waits",
        "both ready",
        "a routed one that fails keeps its weight",
        "all weight to one that waits: the route stays",
        "the former model answers until the new one can",
        "the former model keeps its weight when it fails",
        "the new model takes over",
        "the new model is not deployed yet",
        "three share",
        "two share what the third waits for",
        "a routed one that should have no pods leaves its weight to the others",
    ],
)
def test_weights_go_to_revisions_that_can_serve(facts: ServiceFacts, plan: dict[str, int]) -> None:
    assert planned(facts) == plan


@pytest.mark.parametrize(
    ("facts", "retired"),
    [
        (observe({"v1": 100}, {"v1": 0}, former=1, routed={"former": 100}), set()),
        (observe({"v1": 100}, {"v1": 1}, former=1, routed={"former": 100}), set()),
        (observe({"v1": 100}, {"v1": 1}, former=1, routed={"v1": 100}), {FORMER}),
        (observe({"v1": 100}, {"v1": 0}, former=1, has_gateway=False), set()),
        (observe({"v1": 100}, {"v1": 1}, former=1, has_gateway=False), {FORMER}),
    ],
    ids=["still answering", "still routed", "routed away", "no gateway, still answering", "no gateway, replaced"],
)
def test_former_revision_retires_once_nothing_needs_it(facts: ServiceFacts, retired: set[str]) -> None:
    assert {d.name for d in retired_deployments(facts, plan_traffic(facts))} == retired


def test_retired_revision_is_drained_before_it_is_removed() -> None:
    facts = observe({"v1": 100}, {"v1": 1}, routed={"v1": 100})
    stale = observe({"v1": 100}, {"v1": 1}, route=NEW_ROUTE)

    def retired(age: timedelta) -> DeploymentView:
        return deployment("a", "v1", 1, retired_at=NOW - age)

    silent = MIN_IDLE.total_seconds()
    assert not is_drained(facts, deployment("a", "v1", 1), silent)
    assert not is_drained(facts, retired(MIN_IDLE - timedelta(seconds=1)), silent)
    assert not is_drained(facts, retired(MIN_IDLE), silent - 1)
    assert not is_drained(stale, retired(MIN_IDLE), silent)
    assert is_drained(facts, retired(MIN_IDLE), silent)
    assert is_drained(stale, retired(MAX_DRAIN), 0)


@pytest.mark.feature("S10")
def test_retired_revision_stays_while_the_gateway_still_sends_to_it() -> None:
    """The controller of a gateway may be away for an hour while its proxies go on with the former route."""
    programmed = observe({"v1": 100}, {"v1": 1}, routed={"v1": 100})
    stale = observe({"v1": 100}, {"v1": 1}, route=NEW_ROUTE)
    old = deployment("a", "v1", 1, retired_at=NOW - timedelta(hours=1))
    assert not is_drained(stale, old, 3600)
    assert not is_drained(programmed, old, 0), "it still gets requests"
    assert is_drained(programmed, old, 3600)


@pytest.mark.feature("S21")
@pytest.mark.parametrize(
    ("disagreement", "comparable", "former", "compared"),
    [(0.2, True, 1, FORMER), (None, True, 1, None), (0.2, False, 1, None), (0.2, True, None, None)],
    ids=["judged by it", "not judged by it", "former pods cannot be asked", "nothing is replaced"],
)
def test_new_revision_compares_its_answers_with_what_it_replaces(
    disagreement: float | None, comparable: bool, former: int | None, compared: str | None
) -> None:
    facts = observe({"v1": 100}, {"v1": 0}, former=former, routed={"former": 10_000} if former else None)
    abort_on = AbortOn(disagreement=disagreement, error_rate=0.5)
    spec = facts.service.spec.model_copy(update={"rollout": Rollout(steps=(50,), abort_on=abort_on)})
    facts = replace(
        facts,
        service=facts.service.model_copy(update={"spec": spec}),
        deployments={name: replace(view, is_comparable=comparable) for name, view in facts.deployments.items()},
    )
    (only,) = spec.variants
    assert compared_revision(facts, plan_traffic(facts), only) == compared


def draining(age: timedelta, **fields: Any) -> list[str]:
    """Return the message of the condition Draining of a service with a revision that retired that long ago."""
    facts = observe({"v1": 100}, {"v1": 1}, former=1, **fields)
    old = replace(facts.deployments[FORMER], retired_at=NOW - age)
    facts = replace(facts, deployments=facts.deployments | {FORMER: old})
    return [c.message for c in status_of(facts).conditions if c.type == "Draining"]


@pytest.mark.feature("S10")
def test_drain_that_takes_long_has_a_condition_with_the_cause() -> None:
    assert draining(timedelta(seconds=59), routed={"v1": 100}) == []
    (busy,) = draining(timedelta(hours=1), routed={"v1": 100})
    assert "they still get requests, or their metrics cannot be read" in busy
    assert "They end at 2026-05-01T17:00:00Z at the latest." in busy
    route = route_to(inference_service(), {revision(inference_service(), "v1"): 100})
    (unseen,) = draining(timedelta(hours=1), route=route | {"metadata": route["metadata"] | {"generation": 9}})
    assert "the gateway has not taken the new route in yet" in unseen


@pytest.mark.feature("S16")
def test_accelerator_that_nothing_computes_on_is_a_warning() -> None:
    further = {"v1": {"resources": {"limits": {"amd.com/gpu": 1}}}}
    status = status_of(observe({"v1": 100}, {"v1": 1}, routed={"v1": 100}, further=further))
    (ready,) = [c for c in status.conditions if c.type == "VariantsReady"]
    assert (ready.status, ready.reason) == ("True", "AcceleratorUnused")
    assert "not amd.com/gpu" in ready.message


@pytest.mark.parametrize(
    ("facts", "phase", "reasons"),
    [
        (observe({"v1": 100}, {}), "Deploying", ("Deploying", "Deploying", "NothingToRouteTo")),
        (observe({"v1": 100}, {"v1": 1}, routed={"v1": 100}), "Running", ("Serving", "AllReady", "Accepted")),
        (
            observe({"v1": 90, "v2": 10}, {"v1": 1, "v2": 0}, routed={"v1": 90, "v2": 0}),
            "Deploying",
            ("Deploying", "Deploying", "Accepted"),
        ),
        (
            observe({"v1": 90, "v2": 10}, {"v1": 1, "v2": 0}, routed={"v1": 90, "v2": 10}),
            "Degraded",
            ("Deploying", "Deploying", "Accepted"),
        ),
        (
            observe({"v1": 100}, {"v1": 0}, pods=BROKEN),
            "Failed",
            ("DigestMismatch", "DigestMismatch", "NothingToRouteTo"),
        ),
        (
            observe({"v1": 90, "v2": 10}, {"v1": 0, "v2": 1}, pods=BROKEN, routed={"v1": 0, "v2": 100}),
            "Degraded",
            ("DigestMismatch", "DigestMismatch", "Accepted"),
        ),
        (
            observe({"v1": 100}, {"v1": 0}, pods=BROKEN, former=1, routed={"former": 100}),
            "Degraded",
            ("DigestMismatch", "DigestMismatch", "Accepted"),
        ),
        (
            observe({"v1": 100}, {}, models={}, unresolved={"v1": Verdict(Reason.WAITING_FOR_TRAINING, "Not yet.")}),
            "Deploying",
            ("WaitingForTraining", "WaitingForTraining", "NothingToRouteTo"),
        ),
        (
            observe({"v1": 100}, {"v1": 1}, path_conflict=Verdict(Reason.PATH_TAKEN, "No.", failed=True)),
            "Failed",
            ("PathTaken", "AllReady", "PathTaken"),
        ),
        (
            observe({"v1": 100}, {"v1": 1}, has_gateway=False),
            "Running",
            ("Serving", "AllReady", "NoGateway"),
        ),
        (
            observe({"v1": 50, "v2": 50}, {"v1": 1, "v2": 1}, has_gateway=False),
            "Failed",
            ("GatewayRequired", "AllReady", "GatewayRequired"),
        ),
    ],
)
def test_conditions_and_phase_of_each_situation(facts: ServiceFacts, phase: str, reasons: tuple[str, ...]) -> None:
    status = status_of(facts)
    assert [c.type for c in status.conditions] == ["Ready", "VariantsReady", "RouteReady"]
    assert tuple(c.reason for c in status.conditions) == reasons
    assert status.phase == phase
    assert status.is_true("Ready") == (phase in ("Running", "Degraded"))


def test_blocking_verdict_is_the_reason_of_variants_ready() -> None:
    facts = observe({"v1": 100}, {"v1": 1}, routed={"v1": 100})
    status = status_of(facts, blocked_by=Verdict(Reason.SECRET_NOT_FOUND, "No."))
    assert tuple(c.reason for c in status.conditions) == ("SecretNotFound", "SecretNotFound", "Accepted")
    assert status.phase == "Degraded"


def test_status_shows_the_weights_in_force() -> None:
    status = status_of(observe({"v1": 90, "v2": 10}, {"v1": 1, "v2": 0}, routed={"v1": 90, "v2": 0}))
    assert status.traffic == "v1=100 v2=0"
    assert [(v.name, v.weight, v.ready) for v in status.variants] == [("v1", 100, 1), ("v2", 0, 0)]
    assert (status.ready, status.replicas, status.ready_replicas) == ("1/2", 2, 1)
    assert status.url == "http://gateway/demo/flowers"


def pods_of(facts: ServiceFacts, variant: str) -> int:
    (spec,) = [v for v in facts.service.spec.variants if v.name == variant]
    return desired_replicas(facts, spec)


@pytest.mark.parametrize(
    ("facts", "pods"),
    [
        (observe({"v1": 100}, {}, further=SCALED), 2),
        (observe({"v1": 100}, {}, further=SCALED, former=1, routed={"former": 100}), 2),
        (observe({"v1": 100}, {}, further=SCALED, former=5, routed={"former": 100}), 5),
        (observe({"v1": 100}, {}, further=SCALED, former=12, routed={"former": 100}), 8),
        (observe({"v1": 100}, {"v1": 1}, further=SCALED, former=5, routed={"former": 100}), 1),
    ],
    ids=["the first model", "no less than the least", "as many as before", "no more than the most", "once it is there"],
)
def test_autoscaled_revision_begins_with_the_pods_of_its_load(facts: ServiceFacts, pods: int) -> None:
    assert pods_of(facts, "v1") == pods


@pytest.mark.parametrize(
    ("facts", "pods"),
    [
        (observe({"v1": 50, "v2": 50}, BOTH, further=OFF, routed={"v1": 50, "v2": 50}), 1),
        (observe({"v1": 50, "v2": 50}, BOTH, further=OFF, route=NEW_ROUTE), 1),
        (observe({"v1": 50, "v2": 50}, BOTH, further=OFF, routed={"v1": 100, "v2": 0}), 0),
        (observe({"v1": 0, "v2": 100}, BOTH, further=OFF, routed={"v2": 100}), 0),
    ],
    ids=["it has a share", "the gateway does not know yet", "the others have its share", "nobody else may have it"],
)
def test_variant_scaled_to_0_keeps_pods_until_its_weight_moved(facts: ServiceFacts, pods: int) -> None:
    assert pods_of(facts, "v2") == pods


def test_service_with_all_weight_scaled_to_0_is_not_ready() -> None:
    status = status_of(observe({"v1": 0, "v2": 100}, {"v1": 1, "v2": 0}, further=OFF, routed={"v2": 100}))
    assert (status.conditions[0].status, status.conditions[0].reason) == ("False", "NothingToRouteTo")


def test_service_with_a_path_conflict_has_no_url() -> None:
    clash = Verdict(Reason.PATH_TAKEN, "No.")
    assert status_of(observe({"v1": 100}, {"v1": 1}, path_conflict=clash)).url is None


def test_status_is_read_back_as_written() -> None:
    status = status_of(observe({"v1": 100}, {"v1": 1}, routed={"v1": 100}))
    parsed = InferenceService.parse(
        {
            "metadata": inference_service().metadata.to_json(),
            "spec": inference_service().spec.to_json(),
            "status": status.to_json(),
        }
    )
    assert parsed.status == status


def test_texts_of_a_variant_are_cut_to_the_crds_limits() -> None:
    status = read_schema("inferenceservices", "status")["properties"]
    limits = {name: field.get("maxLength") for name, field in status["variants"]["items"]["properties"].items()}
    endless = ServedModel(**{field.name: "x" * 9000 for field in fields(ServedModel) if field.name != "name"})
    known = status_of(observe({"v1": 100}, {"v1": 1}, models={"v1": endless}))
    waiting = status_of(observe({"v1": 100}, {}, models={}, unresolved={"v1": Verdict(Reason.REFUSED, "x" * 9000)}))
    printed = known.variants[0].to_json() | {"message": waiting.variants[0].message}
    texts = {name: value for name, value in printed.items() if isinstance(value, str)}
    assert {"model", "uri", "runId", "trainingJob", "dataset", "datasetVersion", "digest", "message"} <= set(texts)
    assert all(len(text) <= limits[name] for name, text in texts.items())


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "TrainingJobNotFound"),
        ({}, "WaitingForTraining"),
        ({"conditions": [{"type": "Failed", "status": "True", "reason": "Bad"}]}, "TrainingJobFailed"),
    ],
)
def test_variant_waits_for_its_training_job(status: Any, reason: str) -> None:
    job = None if status is None else training_job(status=status)
    verdict = model_from_training_job(job, "flowers")
    assert isinstance(verdict, Verdict)
    assert verdict.reason == reason


def test_unavailable_store_is_not_a_failure_of_the_model() -> None:
    away = SAID.replace("DigestMismatch", "StoreUnavailable")
    pods = {revision(inference_service(), "v1"): (PodView("server", "Running", termination_message=away),)}
    status = status_of(observe({"v1": 100}, {"v1": 0}, pods=pods))
    assert (status.phase, status.conditions[0].reason) == ("Deploying", "StoreUnavailable")
    broken = status_of(observe({"v1": 100}, {"v1": 0}, pods=BROKEN))
    assert (broken.phase, broken.conditions[0].reason) == ("Failed", "DigestMismatch")


@pytest.mark.feature("O6")
def test_pods_that_a_controller_cannot_create_are_refused_in_its_words() -> None:
    quota = 'pods "flowers" is forbidden: failed quota: cpus: must specify limits.cpu for: server'
    name = revision(inference_service(), "v1")
    facts = observe({"v1": 100}, {"v1": 0})
    refused = replace(facts, deployments={name: deployment(name, "v1", 0, rejection=quota)})
    status = status_of(refused)
    assert (status.phase, status.conditions[0].reason) == ("Deploying", "Refused")
    assert status.conditions[0].message == f"Variant 'v1': A pod cannot be created: {quota}"


@pytest.mark.feature("S10")
def test_model_that_cannot_run_is_shown() -> None:
    text = SAID.replace("DigestMismatch", "ModelNotRunnable")
    pods = {revision(inference_service(), "v1"): (PodView("server", "Running", termination_message=text),)}
    status = status_of(observe({"v1": 100}, {"v1": 0}, pods=pods))
    assert (status.phase, status.conditions[0].reason) == ("Failed", "ModelNotRunnable")


def test_unreadable_metrics_are_a_reason_of_ready_variants() -> None:
    error = Verdict(Reason.METRICS_UNREADABLE, "The metrics of pods cannot be read.")
    status = status_of(observe({"v1": 100}, {"v1": 1}, routed={"v1": 100}, metrics_error=error))
    (_, variants, _) = status.conditions
    assert (status.phase, variants.status, variants.reason) == ("Running", "True", "MetricsUnreadable")


def test_retired_revision_with_unknown_requests_is_kept_until_the_longest_drain() -> None:
    facts = observe({"v1": 100}, {"v1": 1}, routed={"v1": 100})
    retired = [deployment("a", "v1", 1, retired_at=NOW - age) for age in (MIN_IDLE, MAX_DRAIN)]
    assert [is_drained(facts, each, None) for each in retired] == [False, True]


def test_outage_of_all_pods_is_not_ready() -> None:
    status = status_of(observe({"v1": 100}, {"v1": 0}, routed={"v1": 100}))
    assert (status.phase, status.is_true("Ready")) == ("Deploying", False)


def test_stopped_service_is_ready_as_its_spec_describes() -> None:
    stopped = Lifecycle(started_at=None, stopped=Verdict(Reason.STOPPED, "Stopped by spec.stopped."))
    status = status_of(observe({"v1": 100}, {"v1": 0}, routed={"v1": 100}, lifecycle=stopped))
    (ready, variants, _) = status.conditions
    assert (status.phase, ready.status, ready.reason) == ("Stopped", "True", "Stopped")
    assert (variants.status, variants.reason) == ("False", "Stopped")


@pytest.mark.feature("S15")
@pytest.mark.parametrize(
    ("further", "variant"),
    [({}, "v2"), ({"v2": {"replicas": 3}}, "v1"), ({"v2": {"autoscaling": {"max": 3}}}, "v1")],
    ids=["the largest weight", "one with its own replicas", "one with an autoscaler"],
)
def test_scale_shows_the_pods_of_one_variant(further: dict[str, Manifest], variant: str) -> None:
    """An autoscaler multiplies what it selects, and each variant gets the result."""
    weights = {"v1": 20, "v2": 80}
    facts = observe(weights, {"v1": 1, "v2": 1}, routed=weights, former=1, further=further)
    chosen = revision(facts.service, variant)
    sized = {name: replace(view, replicas=4) for name, view in facts.deployments.items()}
    status = status_of(replace(facts, deployments=sized))
    assert (status.replicas, status.scaled_replicas) == (12, 4)
    assert status.selector is not None
    assert f"bloomery.dev/revision={chosen}" in status.selector.split(",")


LOST = "flowers--v1-lost"
STEPPING = {
    "from": [{"revision": FORMER, "weight": 10_000}], "to": [{"revision": LOST, "weight": 10_000}],
    "step": 0, "percent": 10, "since": "2026-05-01T11:59:50Z", "generation": 3,
}  # fmt: skip


@pytest.mark.feature("S10")
@pytest.mark.parametrize(
    ("pods", "seconds", "how"),
    [
        ((PodView("new", "Pending"),), 59, None),
        ((PodView("new", "Pending"),), 60, "has had no ready pod for 1m0s"),
        ((PodView("new", "Running", exit_code=143),), 10, None),
        ((PodView("new", "Running", exit_code=0, deleting=True),), 10, None),
        ((PodView("new", "Running", exit_code=139),), 1, "has no ready pod left, and pod new ended with exit code 139"),
    ],
    ids=["drained a moment ago", "does not come back", "ended with its node", "evicted", "crashed"],
)
def test_canary_aborts_on_a_crash_or_a_minute_without_pods(
    pods: tuple[PodView, ...], seconds: int, how: str | None
) -> None:
    facts = observe({"v1": 100}, {})
    since = NOW - timedelta(seconds=seconds)
    view = deployment(LOST, "v1", 0, unavailable_since=since)
    status = InferenceServiceStatus.model_validate({"rollout": STEPPING})
    service = facts.service.model_copy(update={"status": status})
    stepping = replace(facts, service=service, deployments={LOST: view}, pods={LOST: pods})
    assert stepping.lost_canaries == ({LOST: how} if how else {})
