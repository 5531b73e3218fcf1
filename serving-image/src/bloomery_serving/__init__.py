"""Bloomery's model server: one ONNX classifier behind /predict and the Open Inference Protocol v2.

``cli`` has the commands, ``server`` the life of the process. ``settings`` is the environment; ``storage`` fetches the
model, ``identity`` names it, ``model`` runs it, ``batcher`` schedules it. ``app`` composes the routes of ``api`` and
the ``middleware`` before them. ``kit`` packs and starts offline kits.
"""

__version__ = "0.1.0"
