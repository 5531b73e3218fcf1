"""Rollouts: the state machine that moves traffic from one split to another in steps.

A rollout leads from one split of the traffic to another, whatever the reason: a new model is a revision that gains what
its predecessor loses; a new weight is the same between variants. All of its state is in ``status.rollout``, and the
route is a function of that, so a restarted operator continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import sqrt
from typing import NamedTuple

from bloomery_operator.api.durations import go_duration
from bloomery_operator.api.inferenceservice import AbortOn, RevisionWeight, Rollout, RolloutStatus
from bloomery_operator.domain.timestamps import format_time
from bloomery_operator.domain.traffic import TOTAL_WEIGHT, Weights, normalise_weights, same_weights

MIN_COMPARISONS = 20
"""Compared images before their disagreement is a measure."""
MIN_LABELS = 20
"""Labelled answers on each side before their live accuracy is a measure."""
_CONFIDENCE_Z = 2.326
"""Quantile of the normal distribution for a one-sided confidence of 99%: a step looks at its counts many times."""
_ALL_PERCENT = 100
"""Percent moved after the last step."""


class Phase(StrEnum):
    """Phase of a rollout, as ``status.rollout`` implies it."""

    IDLE = "Idle"
    """No rollout: the target holds in full."""
    STEPPING = "Stepping"
    """Part of the traffic has moved; each step is judged before the next."""
    PROMOTING = "Promoting"
    """All of the traffic has moved; the HTTPRoute has not converged yet."""
    ABORTED = "Aborted"
    """The original split is back, until another spec or another model."""


class Feedback(NamedTuple):
    """Answers of a model whose true class became known, and those of them with the true class."""

    labelled: int
    correct: int


@dataclass(frozen=True)
class RequestStats:
    """Requests to a revision's pods since the step began; durations in seconds."""

    requests: int = 0
    errors: int = 0
    p99: float | None = None
    unreadable: int = 0
    """Ready pods whose metrics cannot be read: what these did is not known."""
    images: int = 0
    """Images that were answered."""
    confidence: float = 0.0
    """The sum of the scores of their likeliest classes."""
    compared: int = 0
    """Images whose class was compared with that of what the revision replaces."""
    disagreements: int = 0
    """Those of them with another class."""
    failed_comparisons: int = 0
    """Images for which what the revision replaces gave no class."""
    can_compare: bool = False
    """Whether all pods whose metrics were read ask and answer for the classes of images."""
    feedback: Mapping[str, Feedback] = field(default_factory=dict)
    """By the digest of each model of the revision: several revisions may have one, and its feedback counts once."""

    @property
    def labelled(self) -> int:
        """Answers whose true class became known."""
        return sum(feedback.labelled for feedback in self.feedback.values())

    @property
    def correct(self) -> int:
        """Those of them with the true class."""
        return sum(feedback.correct for feedback in self.feedback.values())

    @property
    def disagreement(self) -> float:
        """Share of the compared images with another class."""
        return self.disagreements / self.compared if self.compared else 0.0

    @property
    def least_disagreement(self) -> float:
        """Lower bound of the disagreement, with 99% confidence."""
        return _wilson_interval(self.disagreements, self.compared)[0]

    @property
    def live_accuracy(self) -> float:
        """Share of the labelled answers with the true class."""
        return self.correct / self.labelled if self.labelled else 0.0

    def least_accuracy_drop(self, before: RequestStats) -> float:
        """Lower bound of how much the live accuracy is below that of ``before``, with 99% confidence.

        The score interval of a difference of two shares (Newcombe 1998, method 10).
        """
        lower, _ = _wilson_interval(before.correct, before.labelled)
        _, upper = _wilson_interval(self.correct, self.labelled)
        spread = sqrt((before.live_accuracy - lower) ** 2 + (upper - self.live_accuracy) ** 2)
        return before.live_accuracy - self.live_accuracy - spread

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean_confidence(self) -> float:
        """Mean score of the likeliest class."""
        return self.confidence / self.images if self.images else 0.0


def _wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Return the bounds of a share, each with 99% confidence (Wilson's score interval); (0, 1) where nothing is known.

    Two good models differ by chance in few images: a bare share would take many a good one back.
    """
    if not total:
        return 0.0, 1.0
    share, z_squared = count / total, _CONFIDENCE_Z**2
    spread = _CONFIDENCE_Z * sqrt(share * (1 - share) / total + z_squared / (4 * total**2))
    centre, scale = share + z_squared / (2 * total), 1 + z_squared / total
    return (centre - spread) / scale, (centre + spread) / scale


@dataclass(frozen=True, kw_only=True)
class RolloutInput:
    """Everything that the next state of a rollout depends on."""

    plan: Rollout | None
    state: RolloutStatus | None
    routed: Weights
    """The split of the HTTPRoute."""
    target: Weights
    """The split that the spec describes; empty if no revision can serve."""
    generation: int
    existing: frozenset[str]
    """Revisions that have a Deployment."""
    desired: frozenset[str]
    """Revisions of the spec's variants."""
    ready: frozenset[str]
    """Revisions that have a ready pod."""
    request_stats: Mapping[str, RequestStats]
    lost: Mapping[str, str] = field(default_factory=dict)
    """Revisions whose pods have failed or do not come back, and what happened."""
    approved: str = ""
    """The step that a person has approved, as ``approval_of`` names it."""

    @property
    def phase(self) -> Phase:
        """Phase of the stored state."""
        if self.state is None:
            return Phase.IDLE
        if self.state.aborted:
            return Phase.ABORTED
        return Phase.PROMOTING if self.state.percent == _ALL_PERCENT else Phase.STEPPING

    @property
    def origin(self) -> dict[str, int]:
        """The split at which a new rollout begins and to which an abort returns: the last that was reached in full."""
        if self.state is None:
            reached = self.routed
        else:
            reached = weights_of(self.state.to if self.state.percent == _ALL_PERCENT else self.state.from_)
        return normalise_weights({name: weight for name, weight in reached.items() if name in self.existing})

    @property
    def keeps_target(self) -> bool:
        """Whether the stored rollout still leads to the target."""
        if self.state is None or not self.target or same_weights(weights_of(self.state.from_), self.target):
            return False
        return same_weights(weights_of(self.state.to), self.target)

    @property
    def may_retry(self) -> bool:
        """Whether the spec or a model changed since the stored state."""
        if self.state is None:
            return True
        return self.state.generation != self.generation or not canary_revisions(self.state) <= self.desired

    @property
    def is_under_way(self) -> bool:
        """Whether a rollout of the present spec has begun."""
        return self.state is not None and not self.state.aborted and self.state.generation == self.generation


def next_rollout_state(rollout: RolloutInput, now: datetime) -> RolloutStatus | None:
    """Return the rollout's state from now on; None if the target holds in full."""
    plan, state = rollout.plan, rollout.state
    if plan is None:
        return None
    if state is None:
        return _redirect(plan, rollout, now)
    match rollout.phase:
        case Phase.ABORTED:
            return _redirect(plan, rollout, now) if rollout.may_retry else state
        case Phase.PROMOTING if rollout.keeps_target:
            return _promote(state, rollout)
        case Phase.STEPPING if rollout.keeps_target:
            return _judge_step(plan, state, rollout, now)
    return _redirect(plan, rollout, now)


def _redirect(plan: Rollout, rollout: RolloutInput, now: datetime) -> RolloutStatus | None:
    """Follow a target to which no rollout leads yet: begin one if the traffic can move in steps."""
    if not rollout.target:
        # No revision can serve: keep the split, and the state with its origin.
        return rollout.state
    if rollout.state is not None and same_weights(weights_of(rollout.state.from_), rollout.target):
        # The spec was reverted: go back to the original split at once.
        return None
    return _begin(plan, rollout, now) if _can_step(rollout) else None


def _promote(state: RolloutStatus, rollout: RolloutInput) -> RolloutStatus | None:
    """End the rollout once the HTTPRoute has converged.

    Until then the state stays, so that a restart does not begin a new rollout from an intermediate split.
    """
    return None if same_weights(rollout.routed, rollout.target) else state


def _judge_step(plan: Rollout, state: RolloutStatus, rollout: RolloutInput, now: datetime) -> RolloutStatus:
    """Abort if the canary does worse than allowed, else go on to the next step when this one is over."""
    breach = _breach(plan.abort_on, state, rollout) if plan.abort_on else None
    return _next_step(plan, state, rollout, now) if breach is None else _abort(state, rollout, breach)


def weights_at(state: RolloutStatus | None, target: Weights) -> dict[str, int]:
    """Return the split of a rollout's state; without one, the target."""
    if state is None:
        return dict(target)
    before, after = weights_of(state.from_), weights_of(state.to)
    moved = {
        revision: before.get(revision, 0) + (after.get(revision, 0) - before.get(revision, 0)) * state.percent // 100
        for revision in [*before, *(revision for revision in after if revision not in before)]
    }
    # The first revision of the original split gets what rounding lost.
    first = next(iter(before))
    return moved | {first: moved[first] + TOTAL_WEIGHT - sum(moved.values())}


def weights_of(entries: tuple[RevisionWeight, ...]) -> dict[str, int]:
    """Return a split of ``status.rollout`` as a mapping."""
    return {entry.revision: entry.weight for entry in entries}


def canary_revisions(state: RolloutStatus) -> frozenset[str]:
    """Return the revisions that gain traffic."""
    before = weights_of(state.from_)
    return frozenset(entry.revision for entry in state.to if entry.weight > before.get(entry.revision, 0))


def stable_revisions(state: RolloutStatus) -> frozenset[str]:
    """Return the revisions that lose traffic."""
    after = weights_of(state.to)
    return frozenset(entry.revision for entry in state.from_ if entry.weight > after.get(entry.revision, 0))


def _can_step(rollout: RolloutInput) -> bool:
    """Return whether the traffic can move in steps: from another split, whose pods serve the rest meanwhile."""
    origin, target = rollout.origin, rollout.target
    if not origin or same_weights(origin, target):
        return False
    # If no stable pod is ready, an intermediate split would only prolong the outage. But a rollout that has begun is
    # judged to its end, as stable pods that restart are back in seconds.
    stable = {revision for revision, weight in origin.items() if weight > target.get(revision, 0)}
    return rollout.is_under_way or bool(stable & rollout.ready)


def _begin(plan: Rollout, rollout: RolloutInput, now: datetime) -> RolloutStatus:
    return RolloutStatus(  # type: ignore[call-arg]  # by its Python name: the API's own is a keyword
        from_=tuple(RevisionWeight(revision=r, weight=w) for r, w in rollout.origin.items() if w),
        to=tuple(RevisionWeight(revision=r, weight=w) for r, w in rollout.target.items()),
        step=0,
        percent=plan.steps[0],
        since=now,
        generation=rollout.generation,
        message=_step_label(plan, plan.steps[0]),
    )


def _next_step(plan: Rollout, state: RolloutStatus, rollout: RolloutInput, now: datetime) -> RolloutStatus:
    """Go on to the next step once this one has had its time and its requests.

    The steps are found by the percentage that has moved: the spec may have other ones since the rollout began.
    """
    label, step = _step_label(plan, state.percent), max(0, _steps_done(plan, state.percent) - 1)
    left = plan.interval_seconds - (now - state.since).total_seconds()
    waits = _awaited(plan, state, rollout)
    waits += [f"{go_duration(plan.interval_seconds)} to pass"] if left > 0 else []
    if waits:
        return state.model_copy(update={"step": step, "message": f"{label}; waits for {', '.join(waits)}"})
    unjudged = _unjudged(plan, state, rollout)
    following = next((percent for percent in plan.steps if percent > state.percent), None)
    if following is None:
        message = f"All of the traffic has moved{unjudged}"
        return state.model_copy(update={"percent": _ALL_PERCENT, "message": message})
    moved = {"step": _steps_done(plan, following) - 1, "percent": following, "since": now}
    return state.model_copy(update=moved | {"message": f"{_step_label(plan, following)}{unjudged}"})


def approval_of(state: RolloutStatus) -> str:
    """Return the name of a rollout's present step, which an approval holds for: no other rollout has the same."""
    return f"{state.generation}/{state.percent}/{format_time(state.since)}"


def _awaited(plan: Rollout, state: RolloutStatus, rollout: RolloutInput) -> list[str]:
    """Return what the step waits for, other than its time: pods, their metrics, requests, a person."""
    canary, stable = _sides(state, rollout)
    missing = sorted(canary_revisions(state) - rollout.ready)
    waits = [f"a ready pod of {', '.join(missing)}"] if missing else []
    unreadable = canary.unreadable + stable.unreadable
    if plan.abort_on is not None and unreadable:
        waits.append(f"the metrics of {unreadable} pods, which cannot be read")
    if canary.requests < plan.min_requests:
        waits.append(f"{canary.requests} of {plan.min_requests} requests")
    waits += _awaited_comparisons(plan.abort_on, canary, stable) if plan.abort_on else []
    if state.percent in plan.pause_at and rollout.approved != approval_of(state):
        waits.append("approval (kubectl bloomery approve)")
    return waits


def _awaited_comparisons(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> list[str]:
    """Return how many images are still to be compared with what is replaced."""
    if limits.disagreement is None or not _can_compare(canary, stable):
        return []
    needed = _min_comparisons(limits)
    if canary.compared >= needed:
        return []
    failed = f", and {canary.failed_comparisons} failed: see the pods' logs" if canary.failed_comparisons else ""
    return [f"{canary.compared} of {needed} comparisons{failed}"]


def _can_compare(canary: RequestStats, stable: RequestStats) -> bool:
    """Return whether the pods on both sides are of a release that compares, and have the token for it."""
    return canary.can_compare and stable.can_compare


def _min_comparisons(limits: AbortOn) -> int:
    """Return how many compared images make their disagreement a measure; as few as requests are enough."""
    return min(MIN_COMPARISONS, limits.min_requests)


def _unjudged(plan: Rollout, state: RolloutStatus, rollout: RolloutInput) -> str:
    """Return the end of a message if the step that is over could not judge by every limit."""
    if plan.abort_on is None:
        return ""
    canary, stable = _sides(state, rollout)
    reasons = [
        _unjudged_disagreement(plan.abort_on, canary, stable),
        _unjudged_accuracy(plan.abort_on, canary, stable),
        _unjudged_ratios(plan.abort_on, stable),
    ]
    step = _steps_done(plan, state.percent)
    return "".join(f"; step {step} did not judge {reason}" for reason in reasons if reason)


def _unjudged_disagreement(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> str:
    if limits.disagreement is None or _can_compare(canary, stable):
        return ""
    return "the disagreement, as one side has no pod that compares: none is ready, or they are of a former release"


def _unjudged_accuracy(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> str:
    if limits.live_accuracy_drop is None or _has_labels(canary, stable):
        return ""
    return (
        f"the live accuracy, as feedback gave the classes of {canary.labelled} answers, and of {stable.labelled} of "
        f"what is replaced: it needs {MIN_LABELS} each"
    )


def _unjudged_ratios(limits: AbortOn, stable: RequestStats) -> str:
    compared = {"the 99th percentile": limits.p99_ratio, "the confidence": limits.confidence_drop}
    names = [name for name, limit in compared.items() if limit is not None]
    needed = _min_stable_requests(limits)
    if not names or stable.requests >= needed:
        return ""
    return f"{' and '.join(names)}, as what is replaced had {stable.requests} of {needed} requests"


def _has_labels(canary: RequestStats, stable: RequestStats) -> bool:
    """Return whether the live accuracy is a measure on both sides."""
    return min(canary.labelled, stable.labelled) >= MIN_LABELS


def _min_stable_requests(limits: AbortOn) -> int:
    """Return how many requests to what is replaced make its 99th percentile or its confidence a measure."""
    return max(1, limits.min_requests)


def _abort(state: RolloutStatus, rollout: RolloutInput, breach: str) -> RolloutStatus:
    """Return to the original split, once a stable pod is ready to serve it."""
    if not stable_revisions(state) & rollout.ready:
        message = f"To be aborted {breach} This waits for a ready pod of what is replaced."
        return state.model_copy(update={"message": message})
    return state.model_copy(
        update={"aborted": True, "percent": 0, "generation": rollout.generation, "message": f"Aborted {breach}"}
    )


def _step_label(plan: Rollout, percent: int) -> str:
    return f"Step {_steps_done(plan, percent)} of {len(plan.steps)}: {percent} percent moved"


def _steps_done(plan: Rollout, percent: int) -> int:
    """Return how many steps move no more than what has moved."""
    return sum(step <= percent for step in plan.steps)


def _breach(limits: AbortOn, state: RolloutStatus, rollout: RolloutInput) -> str | None:
    """Return by how much the canary does worse than allowed; None if it does not, or too little is known."""
    lost = [f"{name} {rollout.lost[name]}" for name in sorted(canary_revisions(state) & rollout.lost.keys())]
    if lost:
        return f"at {state.percent} percent: {', '.join(lost)}."
    canary, stable = _sides(state, rollout)
    if canary.requests == 0 or canary.requests < limits.min_requests:
        return None
    where = f"at {state.percent} percent, after {canary.requests} requests"
    judges = (_error_rate_breach, _latency_breach, _confidence_breach, _disagreement_breach, _accuracy_breach)
    breaches = (judge(limits, canary, stable) for judge in judges)
    reason = next(filter(None, breaches), None)
    return f"{where}: {reason}" if reason else None


def _error_rate_breach(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> str | None:
    if limits.error_rate is None or canary.error_rate - stable.error_rate <= limits.error_rate:
        return None
    return (
        f"{canary.error_rate:.1%} of them failed, and {stable.error_rate:.1%} of the {stable.requests} to what is "
        f"replaced; {limits.error_rate:.1%} more is allowed."
    )


def _latency_breach(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> str | None:
    if limits.p99_ratio is None or not canary.p99 or not stable.p99:
        return None
    if stable.requests < _min_stable_requests(limits) or canary.p99 <= limits.p99_ratio * stable.p99:
        return None
    return (
        f"the 99th percentile is {canary.p99 * 1000:.0f} ms, that of what is replaced "
        f"{stable.p99 * 1000:.0f} ms; {limits.p99_ratio:g} times as much is allowed."
    )


def _confidence_breach(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> str | None:
    if limits.confidence_drop is None or not canary.images or not stable.images:
        return None
    drop = stable.mean_confidence - canary.mean_confidence
    if stable.requests < _min_stable_requests(limits) or drop <= limits.confidence_drop:
        return None
    return (
        f"the mean score of the answers is {canary.mean_confidence:.3f}, that of what is replaced "
        f"{stable.mean_confidence:.3f}; {limits.confidence_drop:g} less is allowed."
    )


def _disagreement_breach(limits: AbortOn, canary: RequestStats, _: RequestStats) -> str | None:
    if limits.disagreement is None or canary.compared < max(1, _min_comparisons(limits)):
        return None
    if canary.least_disagreement <= limits.disagreement:
        return None
    return (
        f"of {canary.compared} compared images, {canary.disagreement:.1%} have another class than what is replaced "
        f"gives them; {limits.disagreement:.1%} is allowed."
    )


def _accuracy_breach(limits: AbortOn, canary: RequestStats, stable: RequestStats) -> str | None:
    if limits.live_accuracy_drop is None or not _has_labels(canary, stable):
        return None
    if canary.least_accuracy_drop(stable) <= limits.live_accuracy_drop:
        return None
    return (
        f"by the feedback, {canary.live_accuracy:.1%} of {canary.labelled} answers are right, and "
        f"{stable.live_accuracy:.1%} of {stable.labelled} of what is replaced; {limits.live_accuracy_drop:.1%} less is "
        "allowed."
    )


def _sides(state: RolloutStatus, rollout: RolloutInput) -> tuple[RequestStats, RequestStats]:
    """Return the requests to what gains traffic and to what loses it."""
    stats = rollout.request_stats
    return _total(stats, canary_revisions(state)), _total(stats, stable_revisions(state))


def _total(request_stats: Mapping[str, RequestStats], revisions: frozenset[str]) -> RequestStats:
    """Return several revisions' requests together, with the largest percentile, so that none hides another."""
    chosen = [request_stats[revision] for revision in sorted(revisions) if revision in request_stats]
    return RequestStats(
        requests=sum(stats.requests for stats in chosen),
        errors=sum(stats.errors for stats in chosen),
        p99=max((stats.p99 for stats in chosen if stats.p99 is not None), default=None),
        unreadable=sum(stats.unreadable for stats in chosen),
        images=sum(stats.images for stats in chosen),
        confidence=sum(stats.confidence for stats in chosen),
        compared=sum(stats.compared for stats in chosen),
        disagreements=sum(stats.disagreements for stats in chosen),
        failed_comparisons=sum(stats.failed_comparisons for stats in chosen),
        can_compare=bool(chosen) and all(stats.can_compare for stats in chosen),
        feedback={digest: counts for stats in chosen for digest, counts in stats.feedback.items()},
    )
