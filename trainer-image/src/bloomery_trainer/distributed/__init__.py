"""The processes that train one model together: how they are started, meet, exchange values and notice a loss."""

# Imported first for its settings, which torch reads when it is loaded.
import bloomery_trainer.torch_runtime  # noqa: F401
