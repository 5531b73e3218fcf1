"""Objects and commands of the pages, on a real API server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.component.test_crd_validation import dataset, training_job
from tools.docs_blocks import ROOT, Block, blocks, pages, run_by

if TYPE_CHECKING:
    from testing.api_server import ApiServer

DIGITS = "examples/digits/digits.yaml"
MANIFESTS = [block for page in pages() for block in blocks(page) if block.language == "yaml"]
OBJECTS = [block for block in MANIFESTS if "apiVersion:" in block.text]
CHANGES = [block for block in MANIFESTS if block.text.startswith("spec:")]


def place(block: Block) -> str:
    return block.place


@pytest.mark.feature("O2")
@pytest.mark.parametrize("block", OBJECTS, ids=place)
def test_each_object_that_a_page_shows_is_accepted(crds: ApiServer, namespace: str, block: Block) -> None:
    for manifest in yaml.safe_load_all(block.text):
        if str(manifest["apiVersion"]).startswith(("bloomery.dev/", "v1", "batch/")):
            done = crds.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", input=manifest)
            assert done.returncode == 0, done.stderr


@pytest.mark.feature("D8")
@pytest.mark.parametrize("block", CHANGES, ids=place)
def test_each_change_that_a_page_shows_is_accepted(crds: ApiServer, namespace: str, block: Block) -> None:
    whole = next(other for other in OBJECTS if other.page == block.page)
    manifest: dict[str, Any] = yaml.safe_load(whole.text)
    manifest["spec"] |= yaml.safe_load(block.text)["spec"]
    done = crds.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", input=manifest)
    assert done.returncode == 0, done.stderr


@pytest.mark.feature("O2")
@pytest.mark.parametrize("block", run_by(__file__), ids=place)
def test_each_command_of_a_page_does_what_it_says(
    crds: ApiServer, namespace: str, block: Block, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_bytes(crds.kubeconfig.read_bytes())
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(crds.cache)}
    environment["PATH"] = f"{crds.kubectl_binary.parent}{os.pathsep}{environment['PATH']}"
    crds.kubectl("--kubeconfig", str(kubeconfig), "config", "set-context", "--current", f"--namespace={namespace}")
    for manifest in (dataset(), training_job()):
        crds.kubectl("create", "-n", namespace, "-f", "-", input=manifest)
    crds.kubectl("apply", "-n", namespace, "-f", str(ROOT / DIGITS))

    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = f"set -euo pipefail\n{block.text}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
