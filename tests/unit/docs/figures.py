"""Figures of the trainer's progress, read from its sources, and all metrics of a model server."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import numpy as np

from bloomery_model.statistics import Reference
from bloomery_serving.capture.feedback import LiveAccuracy
from bloomery_serving.capture.recorder import CaptureMetrics, CaptureQueue
from bloomery_serving.drift import MIN_ANSWERS
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.metrics import Metrics
from bloomery_serving.peer_comparison import ComparisonMetrics
from bloomery_serving.quality_metrics import QualityMetrics
from tools.docs_blocks import ROOT

PACKAGES = {"prepare": ("prepare",), "train": ("commands", "engine", "publish", "tracking")}
"""The trainer's packages that report the figures of each kind of work."""


def progress_figures(kind: str) -> Iterator[str]:
    """Yield the name of every figure that ``progress.update`` sets, some of them more than once."""
    sources = ROOT / "trainer-image" / "src" / "bloomery_trainer"
    for path in (path for package in PACKAGES[kind] for path in (sources / package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.search(r"progress\.update$", ast.unparse(node.func)):
                yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def served_metrics() -> Metrics:
    """Return the metrics of a model server that has answered enough images for all of them."""
    metrics = Metrics(ModelIdentity(digest="sha256:0"), service="model")
    metrics.count("/predict", 200, "default", 0.1)
    metrics.observe("infer", 0.1)
    reference = Reference.of(np.eye(2, dtype=np.float32), brightness=np.arange(2, dtype=np.float32))
    quality = QualityMetrics(metrics.registry, ("rose", "tulip"), reference)
    CaptureMetrics(metrics.registry, CaptureQueue(max_captures=1, max_bytes=1))
    LiveAccuracy(metrics.registry, variant="v1", digest="sha256:0")
    ComparisonMetrics(metrics.registry)
    for _ in range(MIN_ANSWERS):
        quality.count(0, 0.9, brightness=0.5, is_unknown=True)
    return metrics
