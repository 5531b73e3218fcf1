"""How a new model or new weights take over step by step, and when they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bloomery_operator.api.inferenceservice import Rollout, RolloutStatus
from bloomery_operator.status.rollout import Passage, RequestStats, advance, shares_at, whole
from tests.unit.operator.samples import NOW

pytestmark = pytest.mark.feature("S10")

PLAN = Rollout.model_validate(
    {"steps": [10, 50], "interval": "2m", "abortOn": {"errorRate": 0.02, "p99Ratio": 1.5, "minRequests": 100}}
)
WELL = RequestStats(requests=100, errors=0, p99=0.1)
LATER = NOW + timedelta(minutes=2)


def passage(**fields: Any) -> Passage:
    """A new model whose pods are ready stands beside the old one, which has all the traffic."""
    defaults: dict[str, Any] = {
        "plan": PLAN,
        "state": None,
        "routed": {"old": 10_000},
        "target": {"new": 10_000},
        "generation": 2,
        "existing": frozenset({"old", "new", "third", *"abcd"}),
        "wanted": frozenset({"new"}),
        "ready": frozenset({"old", "new"}),
        "figures": {"old": WELL, "new": WELL},
    }
    return Passage(**(defaults | fields))


def begun(**fields: Any) -> Passage:
    """The same in its first step."""
    start = passage(**fields)
    return replace(start, state=advance(start, NOW))


def state_of(there: Passage) -> RolloutStatus:
    assert there.state is not None
    return there.state


def split(there: Passage) -> dict[str, int]:
    return {revision: share for revision, share in shares_at(there.state, there.target).items() if share}


def test_the_traffic_moves_by_the_steps_and_then_in_full() -> None:
    there = begun()
    assert split(there) == {"old": 9000, "new": 1000}
    there = replace(there, state=advance(there, LATER))
    assert split(there) == {"old": 5000, "new": 5000}
    assert advance(there, LATER + timedelta(seconds=119)) is not None
    there = replace(there, state=advance(there, LATER + timedelta(minutes=2)))
    assert split(there) == {"new": 10_000}
    # It is over once the route says so too.
    assert advance(replace(there, routed={"old": 5000, "new": 5000}), LATER) == there.state
    assert advance(replace(there, routed={"new": 10_000, "old": 0}), LATER) is None


def test_new_weights_walk_as_new_models_do() -> None:
    there = begun(
        routed={"a": 9000, "b": 1000}, target={"a": 5000, "b": 5000}, wanted=frozenset("ab"), ready=frozenset("ab")
    )
    assert split(there) == {"a": 8600, "b": 1400}


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
def test_without_a_way_to_walk_the_target_holds_at_once(fields: Mapping[str, Any]) -> None:
    assert advance(passage(**fields), NOW) is None


def test_a_step_waits_for_its_time_and_for_enough_requests_and_says_so() -> None:
    there = begun(figures={"new": RequestStats(requests=37)})
    waiting = advance(there, LATER)
    assert waiting is not None
    assert waiting.step == 0
    assert waiting.message == "Step 1 of 2: 10 percent moved; waits for 37 of 100 requests"
    early = advance(replace(there, figures={"new": WELL}), NOW + timedelta(seconds=5))
    assert early is not None
    assert early.message == "Step 1 of 2: 10 percent moved; waits for 2m0s to pass"


def test_without_a_minimum_time_alone_decides() -> None:
    by_time = Rollout.model_validate(
        {"steps": [10, 50], "interval": "2m", "abortOn": {"errorRate": 0, "minRequests": 0}}
    )
    there = begun(plan=by_time, figures={})
    moved = advance(there, LATER)
    assert moved is not None
    assert moved.step == 1


@pytest.mark.parametrize(
    ("figures", "said"),
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
def test_worse_than_what_is_replaced_puts_all_weight_back_and_says_the_numbers(
    figures: Mapping[str, RequestStats], said: str
) -> None:
    there = begun(figures=figures)
    there = replace(there, state=advance(there, NOW + timedelta(seconds=5)))
    assert state_of(there).aborted
    assert state_of(there).message == said
    assert split(there) == {"old": 10_000}


@pytest.mark.parametrize(
    "figures",
    [
        {"new": RequestStats(99, 99, 9.0), "old": WELL},
        {"new": RequestStats(200, 9, 0.1), "old": RequestStats(1800, 90, 0.1)},
        {"new": RequestStats(200, 0, 0.3), "old": RequestStats(1800, 0, 0.2)},
        {"new": RequestStats(200, 0, 9.0), "old": RequestStats(99, 0, 0.2)},
        {"new": RequestStats(200, 0, 0.3), "old": RequestStats()},
    ],
    ids=["too few to judge", "no worse than the old one", "within the ratio", "too few of the old one", "old one idle"],
)
def test_what_is_not_clearly_worse_goes_on(figures: Mapping[str, RequestStats]) -> None:
    after = advance(begun(figures=figures), NOW + timedelta(seconds=5))
    assert after is not None
    assert not after.aborted


def test_new_pods_that_are_all_gone_abort() -> None:
    gone = advance(replace(begun(), ready=frozenset({"old"})), NOW + timedelta(seconds=5))
    assert gone is not None
    assert gone.aborted
    assert gone.message == "Aborted at 10 percent: new has no ready pod left."


def test_what_was_aborted_is_tried_again_only_for_another_spec_or_model() -> None:
    there = begun(figures={"new": RequestStats(200, 100), "old": WELL})
    there = replace(there, state=advance(there, NOW), figures={})
    # Not even when its pods go and come back.
    for target in ({"new": 10_000}, {"old": 10_000}):
        assert advance(replace(there, target=target), LATER) == there.state
    edited = advance(replace(there, generation=3), LATER)
    assert edited is not None
    assert (edited.aborted, edited.step, edited.generation) == (False, 0, 3)
    third = {"target": {"third": 10_000}, "wanted": frozenset({"third"}), "ready": frozenset({"old", "third"})}
    other = replace(there, **third)
    other = replace(other, state=advance(other, LATER))
    assert split(other) == {"old": 9000, "third": 1000}


def test_a_third_model_begins_where_the_second_began() -> None:
    there = replace(begun(), state=advance(begun(), LATER))
    third = replace(
        there,
        routed={"old": 5000, "new": 5000},
        target={"third": 10_000},
        wanted=frozenset({"third"}),
        ready=frozenset({"old", "new", "third"}),
    )
    third = replace(third, state=advance(third, LATER))
    assert split(third) == {"old": 9000, "third": 1000}


def test_putting_the_weights_back_takes_them_back_at_once() -> None:
    weights = {"routed": {"a": 9000, "b": 1000}, "target": {"a": 1000, "b": 9000}}
    there = begun(**weights, wanted=frozenset("ab"), ready=frozenset("ab"))
    back = replace(there, routed={"a": 8200, "b": 1800}, target={"a": 9000, "b": 1000}, generation=3)
    assert advance(back, NOW) is None


TWO = {
    "routed": {"a": 5000, "b": 5000},
    "target": {"new": 5000, "b": 5000},
    "wanted": frozenset({"new", "third"}),
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
def test_whatever_changes_halfway_an_abort_puts_all_weight_back(
    fields: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
) -> None:
    there = begun(**fields)
    before = there.routed
    there = replace(there, state=advance(there, LATER))
    there = replace(there, routed=split(there))
    for change in changes:
        there = replace(there, **change)
        there = replace(there, state=advance(there, LATER))
    bad = {revision: RequestStats(200, 200) for revision in ("new", "third")}
    there = replace(there, state=advance(replace(there, figures=bad), LATER))
    assert state_of(there).aborted
    assert split(there) == before


def test_a_shadow_that_comes_and_goes_does_not_begin_the_walk_anew() -> None:
    there = begun(target={"new": 10_000, "third": 0})
    there = replace(there, state=advance(there, LATER), target={"new": 10_000})
    assert split(replace(there, state=advance(there, LATER))) == {"old": 5000, "new": 5000}


def test_an_abort_leads_back_to_what_is_left_of_what_was_replaced() -> None:
    there = begun(**TWO)
    gone = replace(there, existing=frozenset({"a", "new", "third"}), target={"new": 5000, "third": 5000})
    gone = replace(gone, state=advance(gone, LATER))
    assert split(gone) == {"a": 9000, "new": 500, "third": 500}


def test_a_rollout_is_judged_to_its_end_although_what_it_replaces_restarts() -> None:
    there = replace(begun(), ready=frozenset({"new"}))
    there = replace(there, state=advance(there, LATER))
    # What is dead may be dead for long: the traffic goes on to who answers.
    assert split(there) == {"old": 5000, "new": 5000}
    bad = replace(there, figures={"new": RequestStats(200, 100), "old": RequestStats()})
    bad = replace(bad, state=advance(bad, LATER + timedelta(minutes=2)))
    # But it neither ends there, nor goes back to where nobody is.
    assert split(bad) == {"old": 5000, "new": 5000}
    assert state_of(bad).message == (
        "To be aborted at 50 percent, after 200 requests: 50.0% of them failed, and 0.0% of the 0 to what is replaced; "
        "2.0% more is allowed. This waits for a ready pod of what is replaced."
    )
    back = replace(bad, ready=frozenset({"old", "new"}))
    assert split(replace(back, state=advance(back, LATER + timedelta(minutes=2)))) == {"old": 10_000}


def test_an_edit_while_what_is_replaced_is_dead_ends_the_outage() -> None:
    edited = replace(begun(), ready=frozenset({"new", "third"}), target={"third": 10_000}, generation=3)
    assert advance(edited, LATER) is None


def test_what_was_edited_beside_the_walk_is_no_reason_to_try_again_what_was_aborted() -> None:
    there = replace(begun(), figures={"new": RequestStats(200, 100), "old": WELL}, generation=3)
    there = replace(there, state=advance(there, NOW))
    assert advance(there, LATER) == there.state


def test_shares_are_whole_and_lose_nothing_in_rounding() -> None:
    assert whole({"a": 1, "b": 1, "c": 1}) == {"a": 3334, "b": 3333, "c": 3333}
    assert whole({"a": 0}) == {}
    there = begun(routed={"a": 3334, "b": 3333, "c": 3333}, target={"d": 10_000}, ready=frozenset("abcd"))
    assert sum(shares_at(there.state, there.target).values()) == 10_000
