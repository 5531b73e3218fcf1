"""Publication of a trained model: the registry, and which version its alias names."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.torch_runtime  # noqa: F401
