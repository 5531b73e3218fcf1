"""The check of the house rules for words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import words
from tools.words import check_prose, check_python, list_files, package_of


def findings(source: str, *, package: str = "plugin", path: str = "plugin/src/kubectl_bloomery/a.py") -> list[str]:
    return [str(finding).removeprefix(f"{path}:") for finding in check_python(source, path, package)]


@pytest.mark.parametrize("word", ["What", "Who", "Whose", "How", "When", "Where"])
def test_indirect_module_docstring_is_found(word: str) -> None:
    assert findings(f'"""{word} it does."""\n') == [f"1: {word} -> a noun phrase or a verb"]


@pytest.mark.parametrize("text", ["Whatever file.", "Reads files when asked.", "``What``: a file.", ""])
def test_other_module_docstring_is_allowed(text: str) -> None:
    assert findings(f'"""{text}"""\n') == []


def test_only_module_docstrings_have_a_rule_for_their_opening() -> None:
    assert findings('def f():\n    """Who calls it."""\n') == []


@pytest.mark.parametrize(
    ("source", "package", "replacement"),
    [
        ("class Standing: ...", "plugin", "Standing -> JobSummary"),
        ("def complaint(): ...", "plugin", "complaint -> clean_error"),
        ("class Projection: ...", "operator", "Projection -> ObjectCache"),
        ("def f(may_write): ...", "operator", "may_write -> lease_remaining_seconds"),
        ("WHOLE = 1", "operator", "WHOLE -> TOTAL_WEIGHT"),
        ("class A:\n    hands: int", "trainer", "hands -> workers"),
        ("self.hands = 1", "trainer", "hands -> workers"),
        ("SMALL = 96", "model", "SMALL -> NO_RESIZE_BELOW"),
    ],
)
def test_old_name_is_found_where_it_is_defined(source: str, package: str, replacement: str) -> None:
    assert [finding.partition(": ")[2] for finding in findings(source, package=package)] == [replacement]


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("class Standing: ...", "operator"),
        ("standing.alive()", "plugin"),
        ("place = 1", "trainer"),
        ("def f(): ...\nf(hands=1)", "trainer"),
    ],
)
def test_other_packages_kinds_and_uses_of_a_name_are_allowed(source: str, package: str) -> None:
    assert findings(source, package=package) == []


def test_rule_for_a_class_wins_over_general_rule() -> None:
    source = "class ApplyCache:\n    def holds(self): ...\n\ndef holds(): ...\n"

    assert findings(source, package="operator") == ["2: holds -> is_unchanged", "4: holds -> must_keep_pods"]


def test_old_name_of_a_module_is_found() -> None:
    path = "plugin/src/kubectl_bloomery/asking.py"

    assert findings("", path=path) == ["1: asking -> predict_client"]


@pytest.mark.parametrize(
    "source", ["told = 1", "def f(told): ...", "with f as told: ...", "{told for told in x}", "(told := 1)"]
)
def test_participle_is_no_name(source: str) -> None:
    assert findings(source) == ["1: told -> a noun"]


def test_participle_with_underscore_is_found_and_longer_name_is_not() -> None:
    assert findings("_kept = 1\nkept_files = 2\nfoundation = 3\n") == ["1: _kept -> a noun"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("It can not start.", "can not -> cannot"),
        ("It can\nnot start.", "can not -> cannot"),
        ("Mend the file.", "Mend -> fix"),
        ("A user is told why.", "told -> shown, reported, set"),
        ("It stops wherever it is.", "wherever -> everywhere, if"),
    ],
)
def test_word_in_prose_is_found(text: str, word: str) -> None:
    assert [str(finding) for finding in check_prose(text, "a.md")] == [f"a.md:1: {word}"]


@pytest.mark.parametrize(
    "text", ["We recommend it.", "An amendment.", "It cannot start.", "Run `file.tell()`.", "```\ncan not\n```"]
)
def test_longer_word_and_code_are_allowed(text: str) -> None:
    assert list(check_prose(text, "a.md")) == []


def test_prose_in_python_is_docstrings_comments_and_messages() -> None:
    source = '''"""A module.

It can not fail.
"""
# A comment that can
# not be right.
raise ValueError(
    f"{name} is "
    f"told to stop"
)
file.tell()
KEY = "told"
'''
    assert sorted(findings(source)) == [
        "3: can not -> cannot",
        "5: can not -> cannot",
        "9: told -> shown, reported, set",
    ]


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("trainer-image/src/bloomery_trainer/a.py", "trainer"),
        ("dev/node.py", "dev"),
        ("README.md", "pages"),
    ],
)
def test_package_of_a_path(path: str, package: str) -> None:
    assert package_of(path) == package


def test_files_are_listed_by_folder_and_pattern(tmp_path: Path) -> None:
    for name in ("docs/a.md", "docs/b.png", "README.md", "src/a.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    files = [file.relative_to(tmp_path).as_posix() for file in list_files(["docs", "*.md"], tmp_path)]

    assert files == ["docs/a.md", "README.md"]


def test_tests_are_checked_by_default() -> None:
    assert words.ROOT / "tests/unit/trainer/conftest.py" in list_files(words.CHECKED_PATHS)


def test_exit_code_is_1_if_there_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = words.Finding("a.md", 3, "told", "shown")
    monkeypatch.setattr(words, "list_files", lambda _: [Path("a.md")])
    monkeypatch.setattr(words, "check_file", lambda _: [finding])

    assert words.main([]) == 1
    assert capsys.readouterr().out == "a.md:3: told -> shown\n"
    assert words.main(["--count"]) == 1
    assert capsys.readouterr().out == "pages: 1\n"


def test_exit_code_is_0_without_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "list_files", lambda _: [])

    assert words.main([]) == 0
