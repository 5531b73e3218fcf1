"""The server of an unpacked kit."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import onnxruntime

from bloomery_model.folder import EXPLANATION
from bloomery_model.lineage import Lineage
from bloomery_model.references import REFERENCES
from bloomery_serving import server
from bloomery_serving.identity import ModelIdentity
from bloomery_serving.kit.manifest import MODEL, Manifest
from bloomery_serving.model import Model
from bloomery_serving.settings import Settings


def serve(folder: Path, listener: socket.socket) -> None:
    """Answer requests on a listening socket, until Ctrl+C.

    Raises:
        KitError: the folder is no kit, or a damaged one.
        ModelError: the model cannot be run.
    """
    manifest = Manifest.read(folder)
    manifest.require_intact(folder)
    # Variables of a user's environment, such as PORT or DESCRIPTION, are not for this server.
    own = {"_env_prefix": "BLOOMERY_KIT_", "model_uri": "", "model_dir": folder / MODEL, "metrics_port": 0}
    settings = Settings(**manifest.settings | own)
    _print_line(f"Loading {settings.title} …")
    # On Windows, the environment variable has no effect.
    onnxruntime.disable_telemetry_events()
    explanation, references = (name if name in manifest.files else None for name in (EXPLANATION, REFERENCES))
    model = Model.load(
        folder / MODEL, digest=manifest.digest, threads=1, explanation=explanation, references=references
    )
    identity = ModelIdentity.resolve(settings, Lineage(), digest=manifest.digest)
    _print_line(f"{_address(listener)} Ctrl+C stops the server.")
    server.serve(settings, model, identity, sockets=[listener])


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host.startswith("127."):
        return f"Open http://localhost:{port}/upload in a browser."
    return (
        f"Open http://{socket.gethostname()}:{port}/upload in a browser, here or on any machine that reaches this one; "
        "nobody needs a key."
    )


def _print_line(sentence: str) -> None:
    # A console may lack the letters of a service's name.
    encoding = sys.stdout.encoding or "utf-8"
    print(sentence.encode(encoding, "replace").decode(encoding), flush=True)
