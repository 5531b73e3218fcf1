"""The fuzz test's own judgement: a file that is lost is found, and a case is the same each time."""

from __future__ import annotations

import json
import random
import tarfile
from pathlib import Path

import pytest

from tests.fuzz.archives import any_archive
from tests.fuzz.preparation import lost_files, problems
from tests.fuzz.requests import REQUESTS
from tests.fuzz.serving import answer_problems
from tests.fuzz.worker import MEMORY_BYTES, Outcome

FILES = {"rose/1.png": b"1", "rose/2.gif": b"2"}


def version(folder: Path, *, used: list[str], ignored: list[str]) -> Outcome:
    """Write a dataset version; return the end of its preparation."""
    with tarfile.open(folder / "train-00000.tar", "w") as shard:
        for number, key in enumerate(used):
            (folder / "key").write_text(key, encoding="utf-8")
            shard.add(folder / "key", f"{number:08}.txt")
    lines = [json.dumps({"key": key, "reason": "Format", "detail": "x"}) + "\n" for key in ignored]
    (folder / "ignored.jsonl").write_text("".join(lines), encoding="utf-8")
    return Outcome(0, {"uri": f"file://{folder}"}, 0)


def test_file_that_is_neither_used_nor_listed_is_a_problem(tmp_path: Path) -> None:
    assert problems(version(tmp_path, used=["rose/1.png"], ignored=["rose/2.gif"]), FILES) == []
    assert "rose/2.gif" in problems(version(tmp_path, used=["rose/1.png"], ignored=[]), FILES)[0]


def test_file_that_is_used_and_listed_is_a_problem(tmp_path: Path) -> None:
    outcome = version(tmp_path, used=["rose/1.png", "rose/2.gif"], ignored=["rose/2.gif"])
    assert "more than once" in problems(outcome, FILES)[0]


def test_labels_junk_and_markers_of_folders_need_no_entry() -> None:
    files = {"1.png": b"x", "1.txt": b"rose", "2.txt": b"rose", ".DS_Store": b"x", "rose/": b"", "__MACOSX/1.png": b"x"}
    assert lost_files(files, ["1.png"]) == ["2.txt"]


def test_names_listed_with_escapes_or_by_folder_are_no_loss() -> None:
    files = {
        "rose/a\x01b.png": b"x",
        "a\nb/1.png": b"x",
        "closed/1.png": b"x",
        "top/rose/2.png": b"x",
        "open/1.png": b"x",
    }
    assert lost_files(files, ["rose/a\\x01b.png", "a\\nb", "closed/", "rose/2.png"]) == ["open/1.png"]


@pytest.mark.parametrize(
    "outcome",
    [
        "it hangs",
        Outcome(1, {"error": {"reason": "InternalError", "message": "KeyError: 1"}}, 0),
        Outcome(3, {"error": {"reason": "BadArchive", "message": ""}}, 0),
        Outcome(3, {"error": {"reason": "BadArchive", "message": "It is cut short."}}, MEMORY_BYTES + 1),
    ],
)
def test_crash_hang_or_excess_of_memory_is_a_problem(outcome: Outcome | str) -> None:
    assert len(problems(outcome, {})) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
        b"hello",
        b'HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n{"error": {"code": "BadForm", "message": ""}}',
        b'HTTP/1.1 500 X\r\n\r\n{"error": "The server failed on this request; see its log."}',
    ],
)
def test_unexpected_status_or_refusal_without_a_sentence_is_a_problem(answer: bytes) -> None:
    assert len(answer_problems(answer)) == 1
    assert answer_problems(b"HTTP/1.1 200 OK\r\n\r\n{}") == answer_problems(b"") == []


def test_case_is_the_same_for_the_same_seed() -> None:
    for name, request in REQUESTS.items():
        assert request(random.Random(name)) == request(random.Random(name))
    archives = [any_archive(random.Random(3), FILES) for _ in range(2)]
    assert archives[0] == archives[1]
