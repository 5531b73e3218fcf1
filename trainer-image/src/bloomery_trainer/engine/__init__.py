"""The training engine: what changes weights."""
