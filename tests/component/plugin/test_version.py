"""The command ``version`` beside a release of the chart."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.component.plugin.conftest import OPERATOR_IMAGE, Plugin


@pytest.mark.feature("O3")
def test_versions_of_plugin_chart_and_operator_are_shown(bloomery: Plugin, release: str) -> None:
    command = [sys.executable, "-m", "kubectl_bloomery", "version", f"--release-namespace={release}", "--output=json"]
    ended = subprocess.run(
        command, env=dict(bloomery.environment), capture_output=True, text=True, timeout=90, check=True
    )

    versions = json.loads(ended.stdout)
    assert (versions["chart"], versions["operator"]) == ("bloomery-0.3.0", OPERATOR_IMAGE)
    assert versions["plugin"].count(".") == 2
