"""Networks and their weights: presets, weight files, published weights, export and quantization."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.torch_runtime  # noqa: F401
