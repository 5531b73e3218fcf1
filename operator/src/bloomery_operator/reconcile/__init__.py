"""One level-triggered function for each kind: observe, build, apply, derive the status, apply it if it differs.

Each takes a key, reads everything else itself, and may be called at any time. It returns the seconds until the next
call if no event happens before, or None.
"""

from collections.abc import Mapping

from bloomery_operator.cluster.kinds import (
    BATCH_PREDICTIONS,
    DATASETS,
    INFERENCE_SERVICES,
    RETRAININGS,
    TRAINING_JOBS,
    ResourceKind,
)
from bloomery_operator.reconcile import batchprediction, dataset, inferenceservice, retraining, trainingjob
from bloomery_operator.reconcile.context import Context, Reconciler

RECONCILERS: Mapping[ResourceKind, Reconciler] = {
    DATASETS: dataset.reconcile,
    TRAINING_JOBS: trainingjob.reconcile,
    RETRAININGS: retraining.reconcile,
    INFERENCE_SERVICES: inferenceservice.reconcile,
    BATCH_PREDICTIONS: batchprediction.reconcile,
}

__all__ = ["RECONCILERS", "Context", "Reconciler"]
