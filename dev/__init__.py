"""The development cluster: a real single-node Kubernetes from source, without Docker.

Standard library only, since it runs before any virtual environment exists: ``python3 -m dev --help``.
"""
