"""The listing of a local folder: what cannot be read is named, and does not end it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bloomery_model.local_files import MAX_DEPTH, list_local_files
from bloomery_model.stores import S3Access, StoreError, open_folder
from testing.permissions import permissions_obeyed


def problems_of(root: Path) -> dict[str, str | None]:
    with permissions_obeyed():
        return {file.path: file.problem and file.problem.detail for file in list_local_files(root)}


def test_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "1.png").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)

    assert problems_of(tmp_path) == {
        "closed/": "the folder cannot be listed: Permission denied",
        "open/1.png": None,
    }
    with permissions_obeyed():
        folder = open_folder(tmp_path.as_uri(), S3Access.from_environment({}))
        assert [file.path for file in folder.list()] == ["open/1.png"]


def test_file_in_folder_that_cannot_be_searched_is_named(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "1.png").write_bytes(b"x")
    (tmp_path / "half").chmod(0o400)

    assert problems_of(tmp_path) == {"half/1.png": "it cannot be read: Permission denied"}


@pytest.mark.parametrize(
    ("name", "shown", "problem"),
    [
        (b"a\nb", "a\\nb", "its name has a control character, such as a line break"),
        (b"\xb2\xe2", "\\xb2\\xe2", "its name is not UTF-8"),
    ],
)
def test_name_that_no_path_can_have_is_shown(tmp_path: Path, name: bytes, shown: str, problem: str) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(b"x")

    assert problems_of(tmp_path) == {shown: problem}


def test_garbled_name_with_control_characters_of_latin_1_is_no_problem(tmp_path: Path) -> None:
    name = "ångström.png".encode().decode("latin-1")
    (tmp_path / name).write_bytes(b"x")

    assert problems_of(tmp_path) == {name: None}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "top").symlink_to(tmp_path)
    (tmp_path / "lost.png").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")

    assert problems_of(tmp_path) == {
        "a/1.png": None,
        "b/1.png": None,
        "a/top/": "it is a link to a folder around it",
        "b/top/": "it is a link to a folder around it",
    }


def test_folders_that_are_too_deep_are_named(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * (MAX_DEPTH + 5))
    deep.mkdir(parents=True)
    (deep / "1.png").write_bytes(b"x")

    assert list(problems_of(tmp_path).values()) == [f"it is in more than {MAX_DEPTH} folders"]


def test_files_below_a_folder_and_unfinished_ones(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/1", "a/2", "ab", "a/3#1"):
        (tmp_path / name).write_bytes(b"xy")

    assert sorted((file.path, file.size) for file in list_local_files(tmp_path, "a")) == [("a/2", 2), ("a/b/1", 2)]
    assert list(list_local_files(tmp_path, "missing")) == []


def test_closed_folder_itself_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    folder = open_folder((tmp_path / "closed").as_uri(), S3Access.from_environment({}))

    with permissions_obeyed(), pytest.raises(StoreError) as refused:
        list(folder.list())
    assert refused.value.reason == "AccessDenied"
    assert str(refused.value) == f"{tmp_path}/closed cannot be read: Permission denied; check who may read it"
