"""From a source of images to a dataset version: list, check, split, pack."""
