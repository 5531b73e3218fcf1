"""Clients of all servers but the API server: MLflow, trainer pods, model servers."""
