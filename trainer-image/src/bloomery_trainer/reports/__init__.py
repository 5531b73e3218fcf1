"""Reports on an evaluation: a page, the same as JSON, and the predictions as CSV."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.torch_runtime  # noqa: F401
