"""Pure derivation of conditions and printed fields from observations.

A decision is an ordered tuple of small checks of one frozen observation; the first that returns a verdict decides.
"""
