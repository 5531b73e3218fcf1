"""The training engine: it changes weights, evaluates them and saves its state."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.torch_runtime  # noqa: F401
