"""The command ``version`` without a cluster."""

from __future__ import annotations

from tests.unit.plugin.conftest import Bloomery


def test_plugin_knows_its_version_without_a_cluster(bloomery: Bloomery) -> None:
    ended = bloomery("version", "--client", KUBECONFIG="/nowhere")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("plugin: 0.")
    assert len(ended.stdout.splitlines()) == 1
