"""The log of the process: to stderr, as JSON objects or as text."""

from __future__ import annotations

import logging
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_logging(log_format: Literal["json", "text"]) -> logging.Handler:
    """Send all log records to stderr, one per line; return the handler, which takes further filters."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(_FIELDS) if log_format == "json" else logging.Formatter(_FIELDS))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    return handler
