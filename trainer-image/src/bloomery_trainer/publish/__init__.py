"""Publication of a trained model: the registry, and which version its alias names."""
