"""Prepares image datasets, trains and evaluates image classifiers, exports and registers models."""

import os

# Read when mlflow is imported, so they are set before any module here does so. Its own retries would block for
# minutes at a time; our code waits for servers itself.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
