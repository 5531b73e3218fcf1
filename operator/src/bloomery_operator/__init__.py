"""Kubernetes operator that turns Datasets, TrainingJobs and InferenceServices into Jobs, Deployments and routes.

``pyproject.toml`` of the repository lists the layers; import-linter checks them.
"""
