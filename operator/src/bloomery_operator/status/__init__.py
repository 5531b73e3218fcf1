"""Pure derivation: what was observed becomes conditions and printed fields.

A decision is an ordered tuple of small functions over one frozen observation, each named by what it notices;
the first that speaks gives the verdict.
"""
