"""The README's commands that ask a service and shift its traffic, as they stand, where the digits are served."""

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
def test_the_readmes_user_gets_an_answer_and_shifts_the_traffic(digits: Digits, tmp_path: Path) -> None:
    ask, shift = run_by(__file__)
    # Where the README's step 3 left the images that no model has seen.
    (tmp_path / "digits").symlink_to(demo.IMAGES)
    shell = Shell.of(digits.kubectl.namespace, tmp_path)
    try:
        assert json.loads(shell.run(ask))["label"] == "seven"
        shell.run(shift)
        assert [v["weight"] for v in digits.kubectl.get("isvc", "digits")["spec"]["variants"]] == [50, 50]
    finally:
        set_weights(digits, 90, 10)
