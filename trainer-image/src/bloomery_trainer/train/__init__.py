"""From a dataset version to an evaluated, exported and registered model."""

import os

# Read when torch is loaded, so it is set before any module here does so. Threads that wait for each other
# actively are a tenth as fast as soon as somebody else uses the same processors, as pods on a node do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
