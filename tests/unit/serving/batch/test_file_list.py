"""The files of each process of a batch prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bloomery_model.sources.left_out import LeftOut
from bloomery_model.stores import StoredFile
from bloomery_serving.batch.file_list import FileCounts, ListedFile, Share, list_share, read_list


@dataclass
class Listing:
    """A source of which only the listing is needed."""

    files: Sequence[StoredFile | LeftOut]
    uri: str = "s3://photos"
    warnings: Sequence[str] = field(default_factory=tuple)
    is_remote: bool = True

    def list(self) -> Iterator[StoredFile | LeftOut]:
        return iter(self.files)

    def read(self, path: str) -> bytes:
        raise FileNotFoundError(path)


@pytest.mark.feature("S22")
@pytest.mark.parametrize("processes", [1, 3])
def test_file_is_in_one_share_even_if_listed_twice(tmp_path: Path, processes: int) -> None:
    names = [f"{number % 7}/{number}.jpg" for number in range(300)]
    source = Listing([StoredFile(name, 10) for name in (*names, *names[:50])])

    shares = [_list(source, Share(index, processes), tmp_path / f"{index}.gz") for index in range(processes)]

    assert Counter(file.path for share in shares for file in share) == Counter(names)
    assert all(share for share in shares)


def test_share_of_a_file_does_not_depend_on_the_others(tmp_path: Path) -> None:
    few, many = (Listing([StoredFile(f"{number}.jpg", 1) for number in range(count)]) for count in (40, 60))

    before, after = (_list(source, Share(1, 4), tmp_path / "list.gz") for source in (few, many))

    assert set(before) < set(after)


def test_files_without_images_are_listed_with_a_reason_but_junk_is_not(tmp_path: Path) -> None:
    source = Listing(
        [
            StoredFile("b.JPG?w=300", 5),
            StoredFile("notes.txt", 5),
            StoredFile("scan", 5),
            StoredFile(".DS_Store", 5),
            StoredFile("folder", 0),
            LeftOut("a\\x00.jpg", "BadName", "its name has a control character"),
            LeftOut("__MACOSX/x\\n.jpg", "BadName", "its name has a control character"),
        ]
    )
    target = tmp_path / "list.gz"

    counts = list_share(source, Share(0, 1), target)

    assert counts == FileCounts(4, 4)
    assert list(read_list(target)) == [
        ListedFile("a\\x00.jpg", 0, "BadName", "its name has a control character"),
        ListedFile("b.JPG?w=300", 5),
        ListedFile("notes.txt", 5, "Format", "the name ends in .txt"),
        ListedFile("scan", 5),
    ]
    assert [file.path for file in read_list(target, skip=3)] == ["scan"]


def _list(source: Listing, share: Share, target: Path) -> list[ListedFile]:
    list_share(source, share, target)
    return list(read_list(target))
