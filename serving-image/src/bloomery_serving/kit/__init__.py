"""The offline kit: a model and its server in one zip, for a machine without Kubernetes and without internet.

``pack`` makes it of a base, which ``serving-image/kit`` builds, and a model; ``start`` serves an unpacked one.
"""
