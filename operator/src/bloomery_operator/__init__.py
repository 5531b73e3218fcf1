"""Bloomery's operator: turns Datasets, TrainingJobs and InferenceServices into Jobs, Deployments and routes.

Layers, lowest first; each imports only what stands before it (import-linter checks this):
``api`` the three kinds, ``resources`` manifests, ``status`` conditions, ``cluster`` all Kubernetes I/O,
``reconcile`` one level-triggered function for each kind, ``handlers`` kopf, ``main`` the process.
"""
