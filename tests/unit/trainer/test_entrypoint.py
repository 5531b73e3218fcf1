"""The container's process for Kubernetes: exit codes, messages, progress, limits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_model.sources.access import source_access
from bloomery_trainer.cli import main
from bloomery_trainer.config import schema
from bloomery_trainer.progress_server import Progress, ProgressServer
from bloomery_trainer.storage import S3Access

Run = Callable[[dict[str, Any]], Any]

PREPARE = {"kind": "prepare", "name": "a", "source": {"uri": "s3://a/b"}, "output": {"uri": "s3://c/d"}}
TRAIN = {
    "kind": "train", "name": "a", "uid": "1", "datasets": [{"name": "a", "version": "1", "uri": "s3://a/b"}],
    "preset": "resnet18", "mlflow": {"experiment": "a", "registeredModel": "a"}, "output": {"uri": "s3://c/d"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({**PREPARE, "colour": 1}, "colour: extra inputs are not permitted"),
        ({**PREPARE, "source": {"uri": "ftp://x"}}, "source.uri: string should match pattern"),
        ({**PREPARE, "split": {"validation": 0.7, "test": 0.3}}, "split: validation and test together must be less"),
        ({**TRAIN, "hyperparameters": {"batchSize": 0}}, "hyperparameters.batchSize: input should be greater than"),
        (
            {**TRAIN, "hyperparameters": {"epochs": 1, "maxSteps": 1}},
            "hyperparameters: epochs and maxSteps exclude each other: give one of them",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_name_of_its_field(
    run: Run, config: dict[str, Any], sentence: str
) -> None:
    ended = run(config)

    assert (ended.code, ended.reason) == (2, "InvalidConfig")
    assert f"the configuration config.json is wrong: {sentence}" in ended.sentence


def test_an_unknown_preset_is_refused_before_the_store_is_asked(run: Run) -> None:
    ended = run({**TRAIN, "preset": "resnet9000"})

    assert (ended.code, ended.reason) == (2, "InvalidConfig")
    assert "there is no preset 'resnet9000'; there are inception-v3, " in ended.sentence


def test_a_configuration_of_the_other_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "message"))
    monkeypatch.setenv("BLOOMERY_PORT", "0")
    (tmp_path / "c.json").write_text(json.dumps(PREPARE))

    assert main(["train", str(tmp_path / "c.json")]) == 2
    assert "c.json is a configuration to prepare, not to train" in (tmp_path / "message").read_text()


def test_golden_schema_is_the_schema_in_use() -> None:
    golden = Path(__file__).parents[2] / "golden" / "trainer-config.schema.json"

    assert golden.read_text(encoding="utf-8") == schema()


def test_sigterm_ends_a_run_at_once_with_143_and_a_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(60)
        (tmp_path / "c.json").write_text(json.dumps(PREPARE))
        environment = {
            **os.environ,
            "TERMINATION_LOG": str(tmp_path / "message"),
            "BLOOMERY_PORT": "0",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}",
        }
        command = [sys.executable, "-m", "bloomery_trainer", "prepare", str(tmp_path / "c.json")]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        deaf.accept()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)

    assert process.returncode == 143
    assert b"asked to stop (SIGTERM)" in log
    message = json.loads((tmp_path / "message").read_text())
    assert message["error"]["reason"] == "Terminated"


def test_progress_is_there_for_the_operator_and_for_prometheus() -> None:
    progress = Progress(stage="training", step=0)
    server = ProgressServer(progress, kind="train", port=0)
    server.start()
    try:
        progress.update(step=480, totalSteps=6000, imagesPerSecond=812.5)
        base = f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{base}/progress") as answer:
            figures = {"stage": "training", "step": 480, "totalSteps": 6000, "imagesPerSecond": 812.5}
            assert json.load(answer) == figures
        with urllib.request.urlopen(f"{base}/metrics") as answer:
            metrics = answer.read().decode()
    finally:
        server.stop()

    assert "bloomery_train_step 480.0" in metrics
    assert "bloomery_train_images_per_second 812.5" in metrics
    # A name that ends with _total_ is a counter's to linters; users may still read the gauge by it.
    assert "bloomery_train_steps 6000.0" in metrics and "bloomery_train_total_steps 6000.0" in metrics
    assert "process_cpu_seconds_total" in metrics


def test_a_source_with_own_keys_gets_none_of_the_stores() -> None:
    store = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://store"}

    assert source_access(store) == S3Access.from_environment(store)
    anonymous = source_access({**store, "SOURCE_AWS_REGION": "eu-north-1"})
    assert (anonymous.key_id, anonymous.secret, anonymous.endpoint) == (None, None, None)
    assert anonymous.region == "eu-north-1"
