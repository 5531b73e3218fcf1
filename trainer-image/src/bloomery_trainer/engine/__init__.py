"""The parts of the training loop, each on its own."""
