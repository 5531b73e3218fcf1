"""Rollouts of new models and new weights: steps, aborts and restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bloomery_operator.api.inferenceservice import AbortOn, Rollout, RolloutStatus
from bloomery_operator.domain.rollout import (
    Feedback,
    Phase,
    RequestStats,
    RolloutInput,
    approval_of,
    next_rollout_state,
    weights_at,
)
from bloomery_operator.domain.traffic import normalise_weights
from tests.unit.operator.samples import NOW

pytestmark = pytest.mark.feature("S10")

PLAN = Rollout.model_validate(
    {"steps": [10, 50], "interval": "2m", "abortOn": {"errorRate": 0.02, "p99Ratio": 1.5, "minRequests": 100}}
)
WELL = RequestStats(requests=100, errors=0, p99=0.1)
LATER = NOW + timedelta(minutes=2)


def rollout_input(**fields: Any) -> RolloutInput:
    """A new model whose pods are ready stands beside the old one, which has all the traffic."""
    defaults: dict[str, Any] = {
        "plan": PLAN,
        "state": None,
        "routed": {"old": 10_000},
        "target": {"new": 10_000},
        "generation": 2,
        "existing": frozenset({"old", "new", "third", *"abcd"}),
        "desired": frozenset({"new"}),
        "ready": frozenset({"old", "new"}),
        "request_stats": {"old": WELL, "new": WELL},
    }
    return RolloutInput(**(defaults | fields))


def begun(**fields: Any) -> RolloutInput:
    """The same in its first step."""
    start = rollout_input(**fields)
    return replace(start, state=next_rollout_state(start, NOW))


def state_of(there: RolloutInput) -> RolloutStatus:
    assert there.state is not None
    return there.state


def split(there: RolloutInput) -> dict[str, int]:
    return {revision: share for revision, share in weights_at(there.state, there.target).items() if share}


def test_traffic_moves_in_steps_then_in_full() -> None:
    there = begun()
    assert split(there) == {"old": 9000, "new": 1000}
    there = replace(there, state=next_rollout_state(there, LATER))
    assert split(there) == {"old": 5000, "new": 5000}
    assert next_rollout_state(there, LATER + timedelta(seconds=119)) is not None
    there = replace(there, state=next_rollout_state(there, LATER + timedelta(minutes=2)))
    assert split(there) == {"new": 10_000}
    # It is over once the route says so too.
    assert next_rollout_state(replace(there, routed={"old": 5000, "new": 5000}), LATER) == there.state
    assert next_rollout_state(replace(there, routed={"new": 10_000, "old": 0}), LATER) is None


@pytest.mark.feature("S21")
def test_step_waits_until_a_person_approves_it() -> None:
    there = begun(plan=PLAN.model_copy(update={"pause_at": (10,)}))
    approved = "2/10/2026-05-01T12:00:00Z"
    assert approval_of(state_of(there)) == approved
    for approval in ("", "2/10", "2/50/2026-05-01T12:00:00Z", "1/10/2026-05-01T12:00:00Z", "yes"):
        waiting = next_rollout_state(replace(there, approved=approval), LATER)
        assert waiting is not None and waiting.percent == 10
        assert waiting.message.endswith("waits for approval (kubectl bloomery approve)")
    early = next_rollout_state(replace(there, approved=approved), LATER - timedelta(seconds=1))
    assert early is not None and early.percent == 10
    moved = next_rollout_state(replace(there, approved=approved), LATER)
    assert moved is not None and moved.percent == 50


@pytest.mark.feature("S21")
def test_approval_does_not_hold_for_the_next_model() -> None:
    plan = PLAN.model_copy(update={"pause_at": (50,)})
    first = begun(plan=plan)
    first = replace(first, state=next_rollout_state(first, LATER))
    approved = approval_of(state_of(first))
    again = LATER + timedelta(hours=1)
    second = rollout_input(
        plan=plan,
        routed={"new": 10_000},
        target={"third": 10_000},
        ready=frozenset({"new", "third"}),
        approved=approved,
    )
    second = replace(second, request_stats={"new": WELL, "third": WELL})
    for minutes in (0, 2, 4, 6):
        second = replace(second, state=next_rollout_state(second, again + timedelta(minutes=minutes)))
    assert state_of(second).percent == 50
    assert state_of(second).message.endswith("waits for approval (kubectl bloomery approve)")


@pytest.mark.parametrize(
    ("steps", "percent", "message"),
    [
        ([10, 50], 50, "Step 2 of 2: 50 percent moved"),
        ([5, 8, 25, 50], 25, "Step 3 of 4: 25 percent moved"),
        ([20, 30], 20, "Step 1 of 2: 20 percent moved"),
        ([5], 100, "All of the traffic has moved"),
    ],
)
def test_other_steps_go_on_from_what_has_moved(steps: list[int], percent: int, message: str) -> None:
    there = begun(plan=PLAN.model_copy(update={"steps": (1, 5, 10, 25)}))
    for _ in range(2):
        there = replace(there, state=next_rollout_state(there, LATER + timedelta(hours=state_of(there).step)))
    assert state_of(there).percent == 10
    edited = replace(there, plan=PLAN.model_copy(update={"steps": tuple(steps)}))
    state = next_rollout_state(edited, LATER + timedelta(hours=5))
    assert state is not None and (state.percent, state.message) == (percent, message)


@pytest.mark.feature("S21")
def test_step_waits_for_metrics_of_either_side() -> None:
    plan = PLAN.model_copy(update={"abort_on": AbortOn(disagreement=0.2, confidence_drop=0.1)})
    stats = {"old": RequestStats(unreadable=1), "new": replace(WELL, compared=3, disagreements=3, can_compare=True)}
    state = next_rollout_state(begun(plan=plan, request_stats=stats), LATER)
    assert state is not None and state.percent == 10
    assert state.message.endswith("waits for the metrics of 1 pods, which cannot be read")


@pytest.mark.feature("S21")
def test_feedback_about_a_model_of_two_variants_counts_once() -> None:
    def side(correct: int) -> RequestStats:
        return replace(WELL, feedback={f"digest {correct}": Feedback(10, correct)})

    there = begun(
        plan=PLAN.model_copy(update={"abort_on": AbortOn(live_accuracy_drop=0.05)}),
        routed={"a": 5000, "b": 5000},
        target={"c": 5000, "d": 5000},
        desired=frozenset("cd"),
        ready=frozenset("abcd"),
        request_stats={"a": side(10), "b": side(10), "c": side(5), "d": side(5)},
    )
    state = next_rollout_state(there, LATER)
    assert state is not None and "classes of 10 answers, and of 10 of what is replaced" in state.message


@pytest.mark.feature("S21")
@pytest.mark.parametrize(
    ("mean", "images", "stable_requests", "expected"),
    [(0.5, 100, 900, "Aborted"), (0.75, 100, 900, "Step 2"), (0.5, 0, 900, "Step 2"), (0.5, 100, 99, "did not judge")],
)
def test_less_confident_answers_abort(mean: float, images: int, stable_requests: int, expected: str) -> None:
    plan = PLAN.model_copy(update={"abort_on": AbortOn(confidence_drop=0.1)})
    stats = {
        "old": RequestStats(stable_requests, images=1800, confidence=1800 * 0.8),
        "new": RequestStats(200, images=images, confidence=images * mean),
    }
    state = next_rollout_state(begun(plan=plan, request_stats=stats), LATER)
    assert state is not None and expected in state.message
    if expected == "Aborted":
        assert "the mean score of the answers is 0.500, that of what is replaced 0.800; 0.1 less" in state.message


@pytest.mark.feature("S21")
@pytest.mark.parametrize(
    ("compared", "disagreements", "comparable", "expected"),
    [
        (20, 9, {"old", "new"}, "Aborted"),
        (20, 8, {"old", "new"}, "Step 2"),
        (200, 54, {"old", "new"}, "Aborted"),
        (200, 53, {"old", "new"}, "Step 2"),
        (19, 19, {"old", "new"}, "waits for 19 of 20 comparisons, and 3 failed: see the pods' logs"),
        (0, 0, {"new"}, "did not judge the disagreement"),
        (0, 0, {"old"}, "did not judge the disagreement"),
    ],
    ids=[
        "too many of few",
        "as many of few as chance can give",
        "too many of many",
        "as many of many as chance can give",
        "too few to judge",
        "replaced pods of a former release",
        "former pods return",
    ],
)
def test_answers_other_than_those_of_what_is_replaced_abort(
    compared: int, disagreements: int, comparable: set[str], expected: str
) -> None:
    there = begun(
        plan=PLAN.model_copy(update={"abort_on": AbortOn(disagreement=0.2)}),
        request_stats={
            "old": replace(WELL, can_compare="old" in comparable),
            "new": replace(
                WELL,
                compared=compared,
                disagreements=disagreements,
                failed_comparisons=3,
                can_compare="new" in comparable,
            ),
        },
    )
    state = next_rollout_state(there, LATER)
    assert state is not None and expected in state.message
    if expected == "Aborted":
        share = (
            f"of {compared} compared images, {disagreements / compared:.1%} have another class than what is replaced"
        )
        assert f"{share} gives them; 20.0%" in state.message


@pytest.mark.feature("S21")
@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ((10, 20), (20, 20), "Aborted"),
        ((16, 20), (20, 20), "Step 2"),
        ((800, 1000), (900, 1000), "Aborted"),
        ((860, 1000), (900, 1000), "Step 2"),
        ((20, 20), (10, 20), "Step 2"),
        (
            (0, 19),
            (20, 20),
            "did not judge the live accuracy, as feedback gave the classes of 19 answers, and of 20 of",
        ),
        ((0, 20), (0, 0), "did not judge the live accuracy"),
    ],
    ids=["worse", "chance", "worse by many", "chance by many", "better", "few labels", "no labels of the old model"],
)
def test_answers_that_feedback_calls_wrong_abort(new: tuple[int, int], old: tuple[int, int], expected: str) -> None:
    there = begun(
        plan=PLAN.model_copy(update={"abort_on": AbortOn(live_accuracy_drop=0.05)}),
        request_stats={
            "old": replace(WELL, feedback={"old": Feedback(correct=old[0], labelled=old[1])}),
            "new": replace(WELL, feedback={"new": Feedback(correct=new[0], labelled=new[1])}),
        },
    )
    state = next_rollout_state(there, LATER)
    assert state is not None and expected in state.message


def test_as_many_comparisons_are_needed_as_requests() -> None:
    plan = PLAN.model_copy(update={"abort_on": AbortOn(disagreement=0.2, min_requests=5)})
    worse = replace(WELL, requests=5, compared=5, disagreements=5, can_compare=True)
    stats = {"old": replace(WELL, can_compare=True), "new": worse}
    state = next_rollout_state(begun(plan=plan, request_stats=stats), LATER)
    assert state is not None and state.aborted


def test_new_weights_move_in_steps() -> None:
    there = begun(
        routed={"a": 9000, "b": 1000}, target={"a": 5000, "b": 5000}, desired=frozenset("ab"), ready=frozenset("ab")
    )
    assert split(there) == {"a": 8600, "b": 1400}


def test_stored_state_implies_the_phase() -> None:
    there = begun()
    assert rollout_input().phase is Phase.IDLE
    assert there.phase is Phase.STEPPING
    moved = replace(there, state=state_of(there).model_copy(update={"percent": 100}))
    assert moved.phase is Phase.PROMOTING
    aborted = replace(there, state=state_of(there).model_copy(update={"percent": 0, "aborted": True}))
    assert aborted.phase is Phase.ABORTED


@pytest.mark.parametrize(
    "fields",
    [
        {"plan": None},
        {"routed": {}},
        {"routed": {"new": 10_000}},
        {"target": {}},
        {"ready": frozenset({"new"})},
    ],
    ids=["no rollout asked for", "nothing before", "nothing to do", "nobody can answer", "what is replaced is dead"],
)
def test_target_holds_at_once_without_a_rollout(fields: Mapping[str, Any]) -> None:
    assert next_rollout_state(rollout_input(**fields), NOW) is None


def test_step_waits_for_its_interval_and_requests() -> None:
    there = begun(request_stats={"new": RequestStats(requests=37)})
    waiting = next_rollout_state(there, LATER)
    assert waiting is not None
    assert waiting.step == 0
    assert waiting.message == "Step 1 of 2: 10 percent moved; waits for 37 of 100 requests"
    early = next_rollout_state(replace(there, request_stats={"new": WELL}), NOW + timedelta(seconds=5))
    assert early is not None
    assert early.message == "Step 1 of 2: 10 percent moved; waits for 2m0s to pass"


def test_step_without_min_requests_waits_for_its_interval() -> None:
    by_time = Rollout.model_validate(
        {"steps": [10, 50], "interval": "2m", "abortOn": {"errorRate": 0, "minRequests": 0}}
    )
    there = begun(plan=by_time, request_stats={})
    moved = next_rollout_state(there, LATER)
    assert moved is not None
    assert moved.step == 1


@pytest.mark.parametrize(
    ("request_stats", "message"),
    [
        (
            {"new": RequestStats(200, 9, 0.1), "old": RequestStats(1800, 18, 0.1)},
            "Aborted at 10 percent, after 200 requests: 4.5% of them failed, and 1.0% of the 1800 to what is replaced; "
            "2.0% more is allowed.",
        ),
        (
            {"new": RequestStats(200, 0, 0.31), "old": RequestStats(1800, 0, 0.2)},
            "Aborted at 10 percent, after 200 requests: the 99th percentile is 310 ms, that of what is replaced "
            "200 ms; 1.5 times as much is allowed.",
        ),
    ],
    ids=["errors", "latency"],
)
def test_worse_canary_is_aborted_with_figures(request_stats: Mapping[str, RequestStats], message: str) -> None:
    there = begun(request_stats=request_stats)
    there = replace(there, state=next_rollout_state(there, NOW + timedelta(seconds=5)))
    assert state_of(there).aborted
    assert state_of(there).message == message
    assert split(there) == {"old": 10_000}


@pytest.mark.parametrize(
    "request_stats",
    [
        {"new": RequestStats(99, 99, 9.0), "old": WELL},
        {"new": RequestStats(200, 9, 0.1), "old": RequestStats(1800, 90, 0.1)},
        {"new": RequestStats(200, 0, 0.3), "old": RequestStats(1800, 0, 0.2)},
        {"new": RequestStats(200, 0, 9.0), "old": RequestStats(99, 0, 0.2)},
        {"new": RequestStats(200, 0, 0.3), "old": RequestStats()},
    ],
    ids=["too few to judge", "no worse than the old one", "within the ratio", "too few of the old one", "old one idle"],
)
def test_canary_that_is_not_clearly_worse_continues(request_stats: Mapping[str, RequestStats]) -> None:
    after = next_rollout_state(begun(request_stats=request_stats), NOW + timedelta(seconds=5))
    assert after is not None
    assert not after.aborted


def test_canary_whose_pods_are_lost_is_aborted() -> None:
    lost = {"new": "has no ready pod left, and pod new-0 ended with exit code 139"}
    gone = next_rollout_state(replace(begun(), ready=frozenset({"old"}), lost=lost), NOW + timedelta(seconds=5))
    assert gone is not None
    assert gone.aborted
    assert gone.message == f"Aborted at 10 percent: new {lost['new']}."


@pytest.mark.parametrize("abort_on", [PLAN.abort_on, None], ids=["judged", "by time alone"])
def test_step_waits_for_canary_pods_that_may_come_back(abort_on: AbortOn | None) -> None:
    drained = begun(plan=PLAN.model_copy(update={"abort_on": abort_on}))
    later = next_rollout_state(replace(drained, ready=frozenset({"old"})), LATER)
    assert later is not None
    assert (later.aborted, later.step) == (False, 0)
    assert later.message == "Step 1 of 2: 10 percent moved; waits for a ready pod of new"


def test_unreadable_metrics_are_not_taken_for_silence() -> None:
    by_time = Rollout.model_validate(
        {"steps": [10, 50], "interval": "2m", "abortOn": {"errorRate": 0, "minRequests": 0}}
    )
    there = begun(plan=by_time, request_stats={"new": RequestStats(unreadable=2)})
    waiting = next_rollout_state(there, LATER)
    assert waiting is not None
    assert waiting.step == 0
    assert waiting.message == "Step 1 of 2: 10 percent moved; waits for the metrics of 2 pods, which cannot be read"


def test_step_that_did_not_judge_the_latency_says_so() -> None:
    there = begun(request_stats={"new": RequestStats(200, 0, 9.0), "old": RequestStats(12, 0, 0.1)})
    moved = next_rollout_state(there, LATER)
    assert moved is not None
    assert moved.message == (
        "Step 2 of 2: 50 percent moved; step 1 did not judge the 99th percentile, as what is replaced had 12 of 100 "
        "requests"
    )
    judged = next_rollout_state(begun(), LATER)
    assert judged is not None
    assert judged.message == "Step 2 of 2: 50 percent moved"


def test_aborted_rollout_is_retried_for_another_spec_or_model() -> None:
    there = begun(request_stats={"new": RequestStats(200, 100), "old": WELL})
    there = replace(there, state=next_rollout_state(there, NOW), request_stats={})
    # Not even when its pods go and come back.
    for target in ({"new": 10_000}, {"old": 10_000}):
        assert next_rollout_state(replace(there, target=target), LATER) == there.state
    edited = next_rollout_state(replace(there, generation=3), LATER)
    assert edited is not None
    assert (edited.aborted, edited.step, edited.generation) == (False, 0, 3)
    third = {"target": {"third": 10_000}, "desired": frozenset({"third"}), "ready": frozenset({"old", "third"})}
    other = replace(there, **third)
    other = replace(other, state=next_rollout_state(other, LATER))
    assert split(other) == {"old": 9000, "third": 1000}


def test_third_model_begins_at_the_original_split() -> None:
    there = replace(begun(), state=next_rollout_state(begun(), LATER))
    third = replace(
        there,
        routed={"old": 5000, "new": 5000},
        target={"third": 10_000},
        desired=frozenset({"third"}),
        ready=frozenset({"old", "new", "third"}),
    )
    third = replace(third, state=next_rollout_state(third, LATER))
    assert split(third) == {"old": 9000, "third": 1000}


def test_reverted_weights_hold_at_once() -> None:
    weights = {"routed": {"a": 9000, "b": 1000}, "target": {"a": 1000, "b": 9000}}
    there = begun(**weights, desired=frozenset("ab"), ready=frozenset("ab"))
    back = replace(there, routed={"a": 8200, "b": 1800}, target={"a": 9000, "b": 1000}, generation=3)
    assert next_rollout_state(back, NOW) is None


TWO = {
    "routed": {"a": 5000, "b": 5000},
    "target": {"new": 5000, "b": 5000},
    "desired": frozenset({"new", "third"}),
    "ready": frozenset({"a", "b", "new"}),
}
"""Of two models that one apply replaces, the first is ready."""
ALL_READY = frozenset({"old", "new", "third", *"ab"})


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, [{"target": {"new": 9000, "third": 1000}, "ready": ALL_READY}]),
        (TWO, [{"target": {"new": 5000, "third": 5000}, "ready": ALL_READY}]),
        ({"target": {"new": 9000, "third": 1000}, "ready": ALL_READY}, [{"target": {"new": 5000, "third": 5000}}]),
        ({}, [{"target": {}}, {"target": {"new": 10_000}}]),
    ],
    ids=["another variant is ready", "the second of two models is ready", "weights are edited", "none can serve"],
)
def test_abort_returns_to_original_split_after_changes(
    fields: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
) -> None:
    there = begun(**fields)
    before = there.routed
    there = replace(there, state=next_rollout_state(there, LATER))
    there = replace(there, routed=split(there))
    for change in changes:
        there = replace(there, **change)
        there = replace(there, state=next_rollout_state(there, LATER))
    bad = {revision: RequestStats(200, 200) for revision in ("new", "third")}
    there = replace(there, state=next_rollout_state(replace(there, request_stats=bad), LATER))
    assert state_of(there).aborted
    assert split(there) == before


def test_mirror_that_comes_and_goes_restarts_nothing() -> None:
    there = begun(target={"new": 10_000, "third": 0})
    there = replace(there, state=next_rollout_state(there, LATER), target={"new": 10_000})
    assert split(replace(there, state=next_rollout_state(there, LATER))) == {"old": 5000, "new": 5000}


def test_abort_returns_to_the_remaining_original_revisions() -> None:
    there = begun(**TWO)
    gone = replace(there, existing=frozenset({"a", "new", "third"}), target={"new": 5000, "third": 5000})
    gone = replace(gone, state=next_rollout_state(gone, LATER))
    assert split(gone) == {"a": 9000, "new": 500, "third": 500}


def test_rollout_is_judged_while_stable_pods_restart() -> None:
    there = replace(begun(), ready=frozenset({"new"}))
    there = replace(there, state=next_rollout_state(there, LATER))
    # What is dead may be dead for long: the traffic goes on to who answers.
    assert split(there) == {"old": 5000, "new": 5000}
    bad = replace(there, request_stats={"new": RequestStats(200, 100), "old": RequestStats()})
    bad = replace(bad, state=next_rollout_state(bad, LATER + timedelta(minutes=2)))
    # But it neither ends there, nor goes back to where nobody is.
    assert split(bad) == {"old": 5000, "new": 5000}
    assert state_of(bad).message == (
        "To be aborted at 50 percent, after 200 requests: 50.0% of them failed, and 0.0% of the 0 to what is replaced; "
        "2.0% more is allowed. This waits for a ready pod of what is replaced."
    )
    back = replace(bad, ready=frozenset({"old", "new"}))
    assert split(replace(back, state=next_rollout_state(back, LATER + timedelta(minutes=2)))) == {"old": 10_000}


def test_edit_while_stable_pods_are_down_ends_the_outage() -> None:
    edited = replace(begun(), ready=frozenset({"new", "third"}), target={"third": 10_000}, generation=3)
    assert next_rollout_state(edited, LATER) is None


def test_edit_during_the_rollout_does_not_retry_an_aborted_one() -> None:
    there = replace(begun(), request_stats={"new": RequestStats(200, 100), "old": WELL}, generation=3)
    there = replace(there, state=next_rollout_state(there, NOW))
    assert next_rollout_state(there, LATER) == there.state


def test_weights_lose_nothing_in_rounding() -> None:
    assert normalise_weights({"a": 1, "b": 1, "c": 1}) == {"a": 3334, "b": 3333, "c": 3333}
    assert normalise_weights({"a": 0}) == {}
    there = begun(routed={"a": 3334, "b": 3333, "c": 3333}, target={"d": 10_000}, ready=frozenset("abcd"))
    assert sum(weights_at(there.state, there.target).values()) == 10_000
