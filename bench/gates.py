"""`make bench-gates`: rollouts of good and bad models of real photographs, judged by disagreement and by confidence.

It needs FLOWERS=… and WEIGHTS=…, as `make bench-quality` does. Heads are fitted on the backbone's features: one of few
images, which is replaced, and for each of SEEDS seeds a good successor (of many images), one of shuffled labels, and a
model that gives one class at confidence 1.0. Their answers for held-out photographs, drawn with replacement at five
requests a second, are counted as the model server counts them, and the operator's own rules decide every five seconds.
Only the time is simulated.

The last line is one JSON object. It fails where a good successor is taken back, or where a bad model is not within
`minRequests` + 50 requests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import torch
import torchvision  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from bench.calibration import labelled
from bench.quality import WEIGHTS, require_photographs
from bloomery_model import Preprocess, decode
from bloomery_operator.api.inferenceservice import Rollout
from bloomery_operator.domain.rollout import RequestStats, RolloutInput, next_rollout_state, weights_at
from bloomery_operator.domain.traffic import TOTAL_WEIGHT
from bloomery_trainer.engine.head import compute_features

SEEDS = 20
SAMPLE_SHARE = 0.8
"""Share of the training images that a head is fitted on."""
FEW = 40
"""Images of each class that the replaced model knows."""
SIDE = 224
BATCH = 64
REQUESTS_PER_SECOND = 5
COMPARISONS_PER_SECOND = 2
"""Of a pod of the model server."""
POLL_SECONDS = 5
MIN_REQUESTS = 100
MAX_EXTRA_REQUESTS = 50
LIMIT_SECONDS = 3600
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS: Mapping[str, Mapping[str, float]] = {
    "disagreement": {"disagreement": 0.2},
    "confidenceDrop": {"confidenceDrop": 0.1},
}
CAUGHT = {("constant", "disagreement"), ("shuffled", "disagreement"), ("shuffled", "confidenceDrop")}
"""Bad models with the limits that each take them back alone."""

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """Classes [N] and confidences [N] that a model gives the held-out photographs."""

    classes: NDArray[np.int64]
    confidences: NDArray[np.float64]


@dataclass(frozen=True)
class End:
    """The end of a rollout: whether it was aborted, and the requests to the new model in its last step."""

    aborted: bool
    requests: int


def main() -> None:
    """Print a row for each kind of model and limit and, as the last line, one JSON object."""
    require_photographs()
    train, train_labels = read_features("train")
    validation, labels = read_features("validation")
    replaced = answer(fit(*draw_few(train, train_labels)), validation)
    print(f"the replaced model: top-1 {(replaced.classes == labels).mean():.4f}", flush=True)
    rows: dict[str, dict[str, Any]] = {}
    for seed in range(1, SEEDS + 1):
        for kind, answers in make_successors(seed, train, train_labels, validation).items():
            for limit, abort_on in LIMITS.items():
                end = roll_out(replaced, answers, abort_on, seed)
                row = rows.setdefault(f"{kind}, {limit}", {"aborted": 0, "of": 0, "requests": 0})
                row["aborted"] += end.aborted
                row["of"] += 1
                row["requests"] = max(row["requests"], end.requests)
                row["disagreement"] = round(float((answers.classes != replaced.classes).mean()), 4)
    for name, row in rows.items():
        print(f"{name:26}{row['aborted']:3} of {row['of']} taken back, at most {row['requests']} requests", flush=True)
    print(json.dumps(rows))
    if not all(is_right(name, row) for name, row in rows.items()):
        raise SystemExit("a good model was taken back, or a bad one was not in time")


def is_right(name: str, row: Mapping[str, Any]) -> bool:
    """Return whether the rollouts of one kind of model by one limit ended as they must."""
    kind, _, limit = name.partition(", ")
    if (kind, limit) in CAUGHT:
        return bool(row["aborted"] == row["of"] and row["requests"] <= MIN_REQUESTS + MAX_EXTRA_REQUESTS)
    return kind != "good" or row["aborted"] == 0


def read_features(split: str) -> tuple[Features, NDArray[np.int64]]:
    """Return the backbone's features [N, 1280] of a folder's photographs, and their labels [N]."""
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True), strict=False)
    photographs, preprocess = labelled(split), Preprocess.for_size(SIDE)
    paths = [path for path, _ in photographs]
    batches = (
        torch.from_numpy(
            np.stack([preprocess.tensor(decode(path.read_bytes())) for path in paths[begin : begin + BATCH]])
        )
        for begin in range(0, len(paths), BATCH)
    )
    exact = torch.autocast("cpu", enabled=False)
    features = compute_features(network, network.classifier[-1], batches, autocast=exact)
    return features, np.unique([label for _, label in photographs], return_inverse=True)[1]


def draw_few(features: Features, labels: NDArray[np.int64]) -> tuple[Features, NDArray[np.int64]]:
    """Return some images of each class: a model of few images is replaced by one of many."""
    generator = np.random.default_rng(0)
    places = [generator.permutation(np.flatnonzero(labels == label))[:FEW] for label in np.unique(labels)]
    chosen = np.concatenate(places)
    return features[chosen], labels[chosen]


def fit(features: Features, labels: NDArray[np.int64]) -> Any:
    """Fit a head: logistic regression on standardized features."""
    scaler = StandardScaler().fit(features)
    return scaler, LogisticRegression(C=0.001, max_iter=500).fit(scaler.transform(features), labels)


def answer(head: Any, features: Features) -> Answers:
    """Return a head's answers."""
    scaler, classifier = head
    scores = classifier.predict_proba(scaler.transform(features))
    return Answers(scores.argmax(axis=1), scores.max(axis=1))


def make_successors(seed: int, train: Features, labels: NDArray[np.int64], validation: Features) -> dict[str, Answers]:
    """Return the answers of a good successor, of one of shuffled labels, and of one that gives a single class."""
    generator = np.random.default_rng(seed)
    sample = generator.random(len(train)) < SAMPLE_SHARE
    shuffled = generator.permutation(labels[sample])
    count = len(validation)
    return {
        "good": answer(fit(train[sample], labels[sample]), validation),
        "shuffled": answer(fit(train[sample], shuffled), validation),
        "constant": Answers(np.full(count, seed % (labels.max() + 1)), np.ones(count)),
    }


def roll_out(replaced: Answers, successor: Answers, abort_on: Mapping[str, float], seed: int) -> End:
    """Run one rollout of 10 and 50 percent by the operator's rules; return its end."""
    plan = Rollout.model_validate(
        {"steps": [10, 50], "interval": "2m", "abortOn": {**abort_on, "minRequests": MIN_REQUESTS}}
    )
    there = RolloutInput(
        plan=plan,
        state=None,
        routed={"old": TOTAL_WEIGHT},
        target={"new": TOTAL_WEIGHT},
        generation=2,
        existing=frozenset({"old", "new"}),
        desired=frozenset({"new"}),
        ready=frozenset({"old", "new"}),
        request_stats={},
    )
    there = replace(there, state=next_rollout_state(there, BEGIN))
    generator, counts = random.Random(seed), Counts.zero()
    for second in range(LIMIT_SECONDS):
        share = weights_at(there.state, there.target)["new"] / TOTAL_WEIGHT
        counts.ask(replaced, successor, share=share, generator=generator)
        if (second + 1) % POLL_SECONDS:
            continue
        now = BEGIN + timedelta(seconds=second + 1)
        state = next_rollout_state(replace(there, request_stats=counts.stats()), now)
        assert state is not None
        if state.aborted or state.percent == 100:
            return End(state.aborted, counts.new.requests)
        if there.state is not None and state.step != there.state.step:
            counts = Counts.zero()
        there = replace(there, state=state)
    raise SystemExit(f"a rollout did not end within {LIMIT_SECONDS} s: {there.state}")


@dataclass
class Counts:
    """Counters of the pods on both sides since a step began."""

    old: RequestStats
    new: RequestStats

    @staticmethod
    def zero() -> Counts:
        """Return the counters of pods that have answered nothing."""
        return Counts(RequestStats(can_compare=True), RequestStats(can_compare=True))

    def ask(self, replaced: Answers, successor: Answers, *, share: float, generator: random.Random) -> None:
        """Send a second's requests, so large a share of them to the successor."""
        compared = 0
        for _ in range(REQUESTS_PER_SECOND):
            image = generator.randrange(len(replaced.classes))
            if generator.random() >= share:
                self.old = count(self.old, replaced.confidences[image])
                continue
            self.new = count(self.new, successor.confidences[image])
            if compared < COMPARISONS_PER_SECOND:
                compared += 1
                differs = int(successor.classes[image] != replaced.classes[image])
                self.new = replace(
                    self.new, compared=self.new.compared + 1, disagreements=self.new.disagreements + differs
                )

    def stats(self) -> dict[str, RequestStats]:
        """Return the statistics by revision."""
        return {"old": self.old, "new": self.new}


def count(stats: RequestStats, confidence: float) -> RequestStats:
    """Return the statistics with one more answer."""
    return replace(
        stats,
        requests=stats.requests + 1,
        images=stats.images + 1,
        confidence=stats.confidence + float(confidence),
    )


if __name__ == "__main__":
    main()
