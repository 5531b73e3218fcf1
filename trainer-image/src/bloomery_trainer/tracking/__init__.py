"""Metrics of a run while it goes on: in MLflow, in TensorBoard's event files and at the progress server."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.torch_runtime  # noqa: F401
