"""Values and pure rules of the operator's domain: no manifests, no input or output."""
