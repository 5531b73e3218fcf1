"""Prepares a dataset version from sources of images: list, inspect, split, pack."""
