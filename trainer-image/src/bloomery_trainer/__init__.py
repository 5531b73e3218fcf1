"""Prepares image datasets, trains and evaluates image classifiers, exports and registers models."""
