"""``kubectl bloomery``: each command is a module of its own; all of them ask the cluster through kubectl."""
