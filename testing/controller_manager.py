"""Kubernetes' own controllers beside the operator, at an API server of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from testing.api_server import ApiServer, find_binary, install_kinds, private_apiserver
from testing.operator_process import OperatorProcess, running
from testing.processes import running_program


@contextmanager
def running_controllers(folder: Path, controllers: Sequence[str]) -> Iterator[ApiServer]:
    """Run an API server with the named controllers and the operator until the block ends."""
    with private_apiserver(folder) as server:
        install_kinds(server)
        command = [
            str(find_binary("kube-controller-manager")),
            f"--kubeconfig={server.kubeconfig}",
            f"--controllers={','.join(controllers)}",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        operator = OperatorProcess(kubeconfig=server.kubeconfig, log=folder / "operator.log", environment={})
        with running_program(command, log=folder / "controllers.log"), running(operator):
            yield server
