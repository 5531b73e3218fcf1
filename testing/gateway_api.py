"""The Gateway API's CRDs, from Go's module cache."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from testing.api_server import ApiServer, install_crds

GATEWAY_API = f"sigs.k8s.io/gateway-api@{os.environ.get('GATEWAY_API_VERSION', 'v1.6.1')}"
CRD_FOLDER = Path("config/crd/standard")


def go_module(module: str) -> Path:
    """Return a module's folder in Go's module cache."""
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd="/")
    return Path(json.loads(done.stdout)["Dir"])


def gateway_api_crds() -> Path:
    """Return the folder of the Gateway API's CRDs."""
    return go_module(GATEWAY_API) / CRD_FOLDER


def install_gateway_api(server: ApiServer, *plurals: str) -> None:
    """Install kinds of the Gateway API in an API server."""
    folder = gateway_api_crds()
    install_crds(server, *(folder / f"gateway.networking.k8s.io_{plural}.yaml" for plural in plurals))
