"""Runs the commands of docs/getting-started.md that call a service and shift its traffic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dev import demo
from testing.dev_cluster import Digits
from tests.e2e.shell import Shell
from tests.e2e.test_digits import set_weights
from tools.docs_blocks import run_by


@pytest.mark.feature("S3")
@pytest.mark.feature("S8")
def test_page_commands_get_a_prediction_and_shift_traffic(digits: Digits, tmp_path: Path) -> None:
    predict, shift = run_by(__file__)
    # Step 3 of the page puts the held-back images there.
    (tmp_path / "digits").symlink_to(demo.IMAGES)
    shell = Shell.of(digits.kubectl.namespace, tmp_path)
    try:
        assert json.loads(shell.run(predict))["label"] == "seven"
        shell.run(shift)
        assert [v["weight"] for v in digits.kubectl.get("isvc", "digits")["spec"]["variants"]] == [50, 50]
    finally:
        set_weights(digits, 90, 10)
