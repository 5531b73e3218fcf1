"""The server of an unpacked kit."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import onnxruntime
import uvicorn

from bloomery_serving.app import create_app
from bloomery_serving.kit.manifest import MODEL, Manifest
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model
from bloomery_serving.resources import cpu_count
from bloomery_serving.settings import Settings


def serve(folder: Path, listener: socket.socket) -> None:
    """Answer who connects, until Ctrl+C.

    Raises:
        KitError: the folder is no kit, or a damaged one.
        ModelError: the model can not be run.
    """
    manifest = Manifest.read(folder)
    manifest.require_whole(folder)
    # What a user's environment holds, as PORT or DESCRIPTION, was not meant for this server.
    own = {"_env_prefix": "BLOOMERY_KIT_", "model_uri": "", "metrics_port": 0}
    settings = Settings(**manifest.settings | own)
    _say(f"Loading {settings.title} …")
    # Windows has no variable for that.
    onnxruntime.disable_telemetry_events()
    model = Model.load(folder / MODEL, digest=manifest.digest, threads=1)
    app = create_app(settings, model, Metrics(settings, digest=model.digest), workers=cpu_count())
    _say(f"{_address(listener)} Ctrl+C stops the server.")
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host.startswith("127."):
        return f"Open http://localhost:{port}/upload in a browser."
    return (
        f"Open http://{socket.gethostname()}:{port}/upload in a browser, here or on any machine that reaches this one; "
        "nobody needs a key."
    )


def _say(sentence: str) -> None:
    # A console may lack the letters of a service's name.
    encoding = sys.stdout.encoding or "utf-8"
    print(sentence.encode(encoding, "replace").decode(encoding), flush=True)
