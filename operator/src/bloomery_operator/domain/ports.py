"""Ports of the containers and Services that the operator makes."""

PROGRESS_PORT = 8089
"""Trainer pod: ``/progress`` and ``/stop``."""
RENDEZVOUS_PORT = 29500
"""First pod of a training on several nodes."""
HTTP_PORT = 8080
"""Model server: predictions."""
METRICS_PORT = 9090
"""Model server: Prometheus metrics."""
COMPARE_PORT = 8091
"""Model server: classes of images for pods of the same service."""
COMPARE_PORT_NAME = "compare"
SERVICE_PORT = 80
"""Service of a revision."""
TENSORBOARD_PORT = 6006
