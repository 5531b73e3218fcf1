"""Pure builders: a model in, manifests out. Nothing here reads a cluster, a clock or the environment."""
