"""The report of a dataset version: an HTML page, and its run in MLflow."""
