"""Termination messages that are too long."""

from __future__ import annotations

import json
from pathlib import Path

from bloomery_model import termination


def test_long_message_loses_the_tail_of_its_lists() -> None:
    classes = [{"name": f"类别{i}", "train": i, "validation": 1, "test": 0} for i in range(1000)]
    encoded = termination.encode({"version": "v", "classes": classes, "classCount": 1000, "warnings": ["w"]})
    message = json.loads(encoded)

    assert 3500 < len(encoded) <= termination.LIMIT
    assert message["classes"] == classes[: len(message["classes"])]
    assert (message["classCount"], message["warnings"]) == (1000, ["w"])


def test_long_sentence_is_cut_between_letters() -> None:
    encoded = termination.encode(termination.failure("BadClassName", "长" * 5000))

    assert len(encoded) <= termination.LIMIT
    assert json.loads(encoded)["error"]["message"].endswith("长…")


def test_message_is_written_unless_its_folder_is_that_of_devices(tmp_path: Path) -> None:
    termination.write(tmp_path / "message", termination.failure("BadData", "no images"))
    assert json.loads((tmp_path / "message").read_text()) == {"error": {"reason": "BadData", "message": "no images"}}
    termination.write(Path("/dev/no-such-termination-log"), {})
    assert not Path("/dev/no-such-termination-log").exists()


def test_path_is_that_of_the_variable_or_of_a_container() -> None:
    assert termination.path_from({"TERMINATION_LOG": "/tmp/message"}) == Path("/tmp/message")
    assert termination.path_from({"TERMINATION_LOG": ""}) == Path("/dev/termination-log")
    assert termination.path_from({}) == Path("/dev/termination-log")
