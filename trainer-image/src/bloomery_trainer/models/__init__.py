"""Networks and their weights: reading weight files, and finding the published ones."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.train  # noqa: F401
