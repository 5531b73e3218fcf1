"""Label texts: their encoding, chosen once for a source, and texts that name no class."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bloomery_trainer.config import Addition, Encoding
from bloomery_trainer.prepare.file_table import FileTable, Inspection
from bloomery_trainer.prepare.labels import resolve_labels
from bloomery_trainer.storage import StoredFile
from tests.unit.trainer.prepare.results import count_images

Prepare = Callable[..., Any]
Resolve = Callable[..., tuple[dict[str, int], list[str]]]

CLASSES = ("美食/凉皮", "肉夹馍", "玫瑰花", "roses")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[FileTable]:
    files = FileTable(tmp_path / "files.sqlite", seed=0)
    yield files
    files.close()


@pytest.fixture
def resolve(table: FileTable) -> Resolve:
    """Resolves label texts, one for each image; returns the images of each class and the warnings."""

    def resolve_texts(
        *texts: bytes, encoding: Encoding | None = None, renamed: tuple[str, ...] = ()
    ) -> tuple[dict[str, int], list[str]]:
        table.listing.add(0, (StoredFile(f"{number}.jpg", 9, "1") for number in range(len(texts))))
        table.inspection.record(
            Inspection(0, f"{number}.jpg", 9, "1", bytes([number]) * 32, "jpg", None, None, None, text)
            for number, text in enumerate(texts)
        )
        warnings = resolve_labels(table.labels, [Addition(uri="s3://raw/pairs", encoding=encoding)], renamed=renamed)
        return table.inspection.count_by_class(), warnings

    return resolve_texts


def reasons(table: FileTable) -> dict[str, str]:
    return {file.key: file.detail for file in table.ignored.files()}


@pytest.mark.feature("D3")
def test_every_kind_of_space_in_label_texts_counts_as_plain(resolve: Resolve) -> None:
    classes, warnings = resolve(
        *(name.encode() for name in ("美食\u3000凉皮", "美食\u00a0凉皮", "美食 凉皮", "a<\u3000b")),
        renamed=("a<\u00a0b",),
    )

    assert (classes, warnings) == ({"a< b": 1, "美食 凉皮": 3}, [])


@pytest.mark.feature("D3")
@pytest.mark.feature("D6")
@pytest.mark.parametrize(
    "texts",
    [
        [name.encode("gbk") + b"\r\n" for name in CLASSES],
        [codecs.BOM_UTF8 + name.encode() for name in CLASSES],
        [codecs.BOM_UTF16_LE + name.encode("utf-16le") for name in CLASSES],
        [codecs.BOM_UTF16_BE + name.encode("utf-16be") for name in CLASSES],
        [f"{name}\r\n".encode("utf-16le") for name in CLASSES],
        [name.encode("utf-16be") for name in CLASSES],
        [name.encode("utf-16le") for name in CLASSES[:3]],
        [codecs.BOM_UTF16_LE + CLASSES[0].encode("utf-16le"), *(name.encode() for name in CLASSES[1:])],
    ],
    ids=["gbk", "utf-8-bom", "utf-16le-bom", "utf-16be-bom", "utf-16le", "utf-16be", "utf-16le-chinese", "mixed"],
)
def test_label_texts_of_windows_editors_name_their_classes(resolve: Resolve, texts: list[bytes]) -> None:
    classes, _ = resolve(*texts)

    assert classes == dict.fromkeys(CLASSES[: len(texts)], 1)


def test_encoding_that_is_a_guess_is_a_warning_with_labels(resolve: Resolve) -> None:
    _, warnings = resolve(*(name.encode("gbk") for name in CLASSES))

    assert len(warnings) == 1
    assert warnings[0].startswith(
        "the label texts in s3://raw/pairs do not declare their encoding: they were read as gbk"
    )
    assert "'肉夹馍'" in warnings[0]


@pytest.mark.parametrize("texts", [["cat", "dog"], ["猫", "dog", "玫瑰"], ["café", "thé", "été"]])
def test_label_texts_in_utf8_give_no_warning(resolve: Resolve, texts: list[str]) -> None:
    classes, warnings = resolve(*(text.encode() for text in texts))

    assert sorted(classes) == sorted(texts)
    assert warnings == []


def test_given_encoding_is_used_without_a_guess(resolve: Resolve) -> None:
    classes, warnings = resolve("개".encode("cp949"), b"cat", codecs.BOM_UTF8 + "犬".encode(), encoding="cp949")

    assert set(classes) == {"cat", "개", "犬"}
    assert warnings == []


def test_damaged_text_among_utf8_leaves_out_its_image(table: FileTable, resolve: Resolve) -> None:
    classes, _ = resolve(*(name.encode() for name in CLASSES), "凉皮".encode()[:-1])

    assert sorted(classes) == sorted(CLASSES)
    assert reasons(table) == {"4.jpg": "its label text is not UTF-8"}


@pytest.mark.feature("D3")
def test_text_that_is_no_class_name_leaves_out_its_image(table: FileTable, resolve: Resolve) -> None:
    classes, warnings = resolve(b"cat", b"dog", b"cat,dog", b"cat,dog", b" \n", b"cat\ndog")

    assert classes == {"cat": 1, "dog": 1}
    assert reasons(table) == {
        "2.jpg": "its label text 'cat,dog' has ','", "3.jpg": "its label text 'cat,dog' has ','",
        "4.jpg": "its label text is empty", "5.jpg": "its label text has several lines",
    }  # fmt: skip
    assert warnings == [
        "images are left out because of their label texts: its label text 'cat,dog' has ',' (2), its label text has "
        "several lines (1), its label text is empty (1)"
    ]


def test_label_that_rename_replaces_may_have_any_character(resolve: Resolve) -> None:
    classes, warnings = resolve(b"cat", b"cat,dog", renamed=("cat,dog",))

    assert sorted(classes) == ["cat", "cat,dog"]
    assert warnings == []


@pytest.mark.feature("D3")
def test_dataset_of_label_texts_in_gbk_leaves_out_one_bad_label(prepare: Prepare, labelled: Path) -> None:
    for path in labelled.glob("*.txt"):
        path.write_bytes(path.read_text(encoding="utf-8").encode("gbk"))
    (labelled / "39.txt").write_bytes(b"roses,tulips")
    (labelled / "38.txt").write_bytes(b"<script>")
    result = prepare(labelled, rules={"minImagesPerClass": 18})

    assert result.code == 0
    assert count_images(result.message) == {"roses": 18, "美食/凉皮": 20}
    assert result.message["ignored"] == {"BadLabel": 2}
    assert "read as gbk, such as '美食/凉皮'" in result.message["warnings"][0]
    assert "'roses,tulips' has ','" in result.message["warnings"][1]
