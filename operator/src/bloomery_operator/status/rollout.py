"""How new models and new weights take over: from the shares that revisions have to those that they should have.

A rollout is a walk between two splits of the traffic, whatever the reason for the second: a new model is a revision
that gains what its predecessor loses, a new weight is the same between variants. All of its state is in
``status.rollout``, and the route is a function of that; so an operator that is killed at any point goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bloomery_operator.api.durations import go_duration
from bloomery_operator.api.inferenceservice import AbortOn, Rollout, RolloutStatus, Share
from bloomery_operator.resources.route import WHOLE

_ALL = 100
"""Percent moved once a rollout is over."""

Shares = Mapping[str, int]
"""What each revision gets, in hundredths of a percent; all together have ``WHOLE``."""


@dataclass(frozen=True)
class RequestStats:
    """What a revision's pods counted since the step began; durations in seconds."""

    requests: int = 0
    errors: int = 0
    p99: float | None = None

    @property
    def error_rate(self) -> float:
        """The share of the requests that failed."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What the next stage of a rollout depends on."""

    plan: Rollout | None
    state: RolloutStatus | None
    routed: Shares
    """The split that the route has."""
    target: Shares
    generation: int
    existing: frozenset[str]
    """The revisions that there are."""
    wanted: frozenset[str]
    """The revisions that the spec's variants should serve."""
    ready: frozenset[str]
    """The revisions that have a ready pod."""
    figures: Mapping[str, RequestStats]
    """For each revision what it counted since the step began."""

    @property
    def origin(self) -> Shares:
        """Where a new walk begins, and an abort leads back to: the last split that was reached in full."""
        if self.state is None:
            reached = self.routed
        else:
            reached = shares_of(self.state.to if self.state.percent == _ALL else self.state.from_)
        return whole({revision: weight for revision, weight in reached.items() if revision in self.existing})

    @property
    def is_superseded(self) -> bool:
        """Whether what was taking over is no longer what the spec asks for."""
        return self.state is not None and not gaining(self.state) <= self.wanted

    @property
    def is_under_way(self) -> bool:
        """Whether the spec as it is has begun to take over."""
        return self.state is not None and not self.state.aborted and self.state.generation == self.generation


def advance(passage: Passage, now: datetime) -> RolloutStatus | None:
    """Return the rollout's state from now on; None where the target holds in full."""
    plan, state, target = passage.plan, passage.state, passage.target
    if plan is None:
        return None
    if state is not None and state.aborted and not passage.is_superseded and state.generation == passage.generation:
        # Another try needs another spec or another model.
        return state
    if not target:
        # Nobody can take anything: the split stays, and so does the memory of what it came from.
        return state
    if state is not None and _same(shares_of(state.from_), target):
        # Who takes a change back wants to be back.
        return None
    if state is None or state.aborted or not _same(shares_of(state.to), target):
        return _begin(plan, passage, now) if _can_walk(passage) else None
    if state.percent == _ALL:
        # Forgotten only once the route has it: who is killed in between must not begin anew from half a split.
        return None if _same(passage.routed, target) else state
    breach = _breach(plan.abort_on, state, passage) if plan.abort_on else None
    return _step(plan, state, passage, now) if breach is None else _take_back(state, passage, breach)


def shares_at(state: RolloutStatus | None, target: Shares) -> dict[str, int]:
    """Return the split that a rollout's state stands for; without one, the target."""
    if state is None:
        return dict(target)
    before, after = shares_of(state.from_), shares_of(state.to)
    moved = {
        revision: before.get(revision, 0) + (after.get(revision, 0) - before.get(revision, 0)) * state.percent // 100
        for revision in [*before, *(revision for revision in after if revision not in before)]
    }
    # What rounding lost stays with those who had it before.
    first = next(iter(before))
    return moved | {first: moved[first] + WHOLE - sum(moved.values())}


def whole(weights: Mapping[str, int]) -> dict[str, int]:
    """Return weights scaled to ``WHOLE`` together, the largest remainders rounded up; empty where all are 0."""
    total = sum(weights.values())
    if total == 0:
        return {}
    scaled = {revision: weight * WHOLE // total for revision, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda revision: -(weights[revision] * WHOLE % total))
    for revision in by_remainder[: WHOLE - sum(scaled.values())]:
        scaled[revision] += 1
    return scaled


def shares_of(shares: tuple[Share, ...]) -> dict[str, int]:
    """Return the status' form of a split as a mapping."""
    return {share.revision: share.weight for share in shares}


def gaining(state: RolloutStatus) -> frozenset[str]:
    """Return the revisions that take over."""
    before = shares_of(state.from_)
    return frozenset(share.revision for share in state.to if share.weight > before.get(share.revision, 0))


def losing(state: RolloutStatus) -> frozenset[str]:
    """Return the revisions that are replaced."""
    after = shares_of(state.to)
    return frozenset(share.revision for share in state.from_ if share.weight > after.get(share.revision, 0))


def _can_walk(passage: Passage) -> bool:
    """Whether there is a way to go in steps: a beginning other than the end, with pods that hold the rest meanwhile."""
    origin, target = passage.origin, passage.target
    if not origin or _same(origin, target):
        return False
    # Where nothing answers any more, half a split would only prolong the outage; but a walk that has begun is judged to
    # its end, as pods that are replaced come back in seconds.
    leaving = {revision for revision, weight in origin.items() if weight > target.get(revision, 0)}
    return passage.is_under_way or bool(leaving & passage.ready)


def _same(one: Shares, other: Shares) -> bool:
    """Whether two splits are equal; a revision without a share is none of them."""
    return {r: w for r, w in one.items() if w} == {r: w for r, w in other.items() if w}


def _begin(plan: Rollout, passage: Passage, now: datetime) -> RolloutStatus:
    return RolloutStatus(  # type: ignore[call-arg]  # by its Python name: the API's own is a keyword
        from_=tuple(Share(revision=r, weight=w) for r, w in passage.origin.items() if w),
        to=tuple(Share(revision=r, weight=w) for r, w in passage.target.items()),
        step=0,
        percent=plan.steps[0],
        since=now,
        generation=passage.generation,
        message=_place(plan, 0),
    )


def _step(plan: Rollout, state: RolloutStatus, passage: Passage, now: datetime) -> RolloutStatus | None:
    """Go on to the next step once this one has lasted and was judged."""
    step = min(state.step, len(plan.steps) - 1)
    left = plan.interval_seconds - (now - state.since).total_seconds()
    counted = _sum(passage.figures, gaining(state)).requests
    if left > 0 or counted < plan.min_requests:
        waits = [f"{counted} of {plan.min_requests} requests"] if counted < plan.min_requests else []
        waits += [f"{go_duration(plan.interval_seconds)} to pass"] if left > 0 else []
        return state.model_copy(update={"step": step, "message": f"{_place(plan, step)}; waits for {', '.join(waits)}"})
    if step + 1 == len(plan.steps):
        return state.model_copy(update={"percent": _ALL, "message": "All of the traffic has moved"})
    return state.model_copy(
        update={"step": step + 1, "percent": plan.steps[step + 1], "since": now, "message": _place(plan, step + 1)}
    )


def _take_back(state: RolloutStatus, passage: Passage, breach: str) -> RolloutStatus:
    """Put all weight back, once there is a pod to take it."""
    if not losing(state) & passage.ready:
        return state.model_copy(
            update={"message": f"To be aborted {breach} This waits for a ready pod of what is replaced."}
        )
    return state.model_copy(
        update={"aborted": True, "percent": 0, "generation": passage.generation, "message": f"Aborted {breach}"}
    )


def _place(plan: Rollout, step: int) -> str:
    return f"Step {step + 1} of {len(plan.steps)}: {plan.steps[step]} percent moved"


def _breach(limits: AbortOn, state: RolloutStatus, passage: Passage) -> str | None:
    """Say by how much the new pods do worse than is allowed; None when they do well or too little is known."""
    failed = sorted(gaining(state) - passage.ready)
    if failed:
        return f"at {state.percent} percent: {', '.join(failed)} has no ready pod left."
    new, old = (_sum(passage.figures, revisions) for revisions in (gaining(state), losing(state)))
    if new.requests == 0 or new.requests < limits.min_requests:
        return None
    where = f"at {state.percent} percent, after {new.requests} requests"
    if limits.error_rate is not None and new.error_rate - old.error_rate > limits.error_rate:
        return (
            f"{where}: {new.error_rate:.1%} of them failed, and {old.error_rate:.1%} of the {old.requests} to what is "
            f"replaced; {limits.error_rate:.1%} more is allowed."
        )
    comparable = new.p99 is not None and old.p99 and old.requests >= max(1, limits.min_requests)
    if limits.p99_ratio is not None and comparable and new.p99 and old.p99 and new.p99 > limits.p99_ratio * old.p99:
        return (
            f"{where}: the 99th percentile is {new.p99 * 1000:.0f} ms, that of what is replaced "
            f"{old.p99 * 1000:.0f} ms; {limits.p99_ratio:g} times as much is allowed."
        )
    return None


def _sum(figures: Mapping[str, RequestStats], revisions: frozenset[str]) -> RequestStats:
    """Return several revisions' figures together; of the percentiles the largest, so that none hides another."""
    chosen = [figures[revision] for revision in sorted(revisions) if revision in figures]
    return RequestStats(
        requests=sum(f.requests for f in chosen),
        errors=sum(f.errors for f in chosen),
        p99=max((f.p99 for f in chosen if f.p99 is not None), default=None),
    )
