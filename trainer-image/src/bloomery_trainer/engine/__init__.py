"""Training and evaluation: the steps of a run."""
