"""Bloomery's model server: one ONNX classifier behind /predict and the Open Inference Protocol v2.

``settings`` the environment, ``storage`` fetches the model, ``lineage`` says where that comes from, ``model`` runs it,
``images`` decode, ``auth`` keys, ``gate`` what stands before every request, ``api`` the routes, ``app`` puts them
together, ``server`` the process.
"""

__version__ = "0.1.0"
