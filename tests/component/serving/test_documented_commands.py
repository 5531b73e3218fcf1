"""The commands of docs/guides/serving.md that call a service, as they stand on the page."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.component.serving.conftest import BLUE, RED, StartServer, picture
from tests.component.serving.test_keys import KEY, write_key
from tools.docs_blocks import Block, run_by


@pytest.mark.feature("S3")
@pytest.mark.parametrize("block", run_by(__file__), ids=lambda block: block.place)
def test_each_command_gets_the_label_of_its_images(block: Block, start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    write_key(tmp_path / "keys", "default", KEY)
    server = start_server(api_keys_dir=str(tmp_path / "keys"))
    (tmp_path / "rose.png").write_bytes(picture(RED))
    (tmp_path / "tulip.jpg").write_bytes(picture(BLUE, kind="JPEG"))
    environment = os.environ | {"KEY": KEY, "URL": server.url}

    for command in filter(None, block.text.splitlines()):
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
        answer = json.loads(done.stdout)
        labels = [entry["label"] for entry in answer.get("predictions", [answer])]
        assert labels == (["red", "blue"] if "tulip" in command else ["red"]), command
