"""Batch prediction: the model's answers for all images of a source, written to a store."""
