"""Pure builders of manifests, one file for each kind of object. They read no cluster, clock or environment."""
