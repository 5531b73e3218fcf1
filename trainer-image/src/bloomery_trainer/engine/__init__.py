"""The training engine: the loop and what it runs on."""
