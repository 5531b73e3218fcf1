"""Separates a port with an application of its own from the others."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PortSwitch:
    """Gives the requests that arrive at one port to another application."""

    def __init__(self, app: ASGIApp, *, port: int, other: ASGIApp) -> None:
        """``other`` gets what arrives at ``port``, and ``app`` everything else."""
        self._app = app
        self._port = port
        self._other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        is_other = scope["type"] == "http" and scope["server"][1] == self._port
        await (self._other if is_other else self._app)(scope, receive, send)
