"""``kubectl bloomery version``: the versions of the plugin and of the installation."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from kubectl_bloomery.cluster.installation import find_installation
from kubectl_bloomery.cluster.kubectl import Kubectl
from kubectl_bloomery.options import Context, JsonOutput, ReleaseNamespace
from kubectl_bloomery.output import print_json

_PACKAGE = "kubectl-bloomery"


def version(
    client: Annotated[bool, typer.Option("--client", help="The plugin's version alone, without a cluster.")] = False,
    context: Context = None,
    release_namespace: ReleaseNamespace = None,
    output: JsonOutput = None,
) -> None:
    """Show the versions of this plugin, of the chart and of the operator's image."""
    versions = {"plugin": installed_version(_PACKAGE)}
    if not client:
        installation = find_installation(Kubectl(context=context), release_namespace)
        versions |= {"chart": installation.chart, "operator": installation.operator_image}
    if output is not None:
        print_json(versions)
        return
    for part, value in versions.items():
        print(f"{part}: {value or 'unknown'}")
