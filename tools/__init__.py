"""Generators of documentation, and checks of sources and pages that `make` runs."""
