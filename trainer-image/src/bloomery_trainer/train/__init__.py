"""From a dataset version to an evaluated, exported and registered model."""
