"""Names in archives: their encoding, their form, and files that are left out by name."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_model.sources.archive import Archive
from bloomery_model.sources.left_out import LeftOut
from bloomery_trainer.config import Encoding
from bloomery_trainer.errors import BadData
from testing.archives import (
    DOS,
    ENCRYPTED_FLAG,
    NTFS,
    UNIX,
    UTF8_FLAG,
    ZipFile,
    unicode_path_field,
    write_tar_gz,
    write_zip,
)

Prepare = Callable[..., Any]


def open_archive(path: Path, encoding: Encoding | None = None) -> Archive:
    return Archive(path, uri=f"s3://raw/{path.name}", stamp="1", max_archive_bytes=5 * 2**30, encoding=encoding)


def used(archive: Archive) -> list[str]:
    return sorted(file.path for file in archive.list() if not isinstance(file, LeftOut))


def left_out(archive: Archive) -> dict[str, str]:
    return {file.path: file.reason for file in archive.list() if isinstance(file, LeftOut)}


def zip_of(path: Path, *names: str, encoding: str, host: int) -> Path:
    return write_zip(path, [ZipFile(name=name.encode(encoding), data=b"1", host=host) for name in names])


def tar_of(path: Path, *names: str, encoding: str) -> Path:
    return write_tar_gz(path, [(name.encode(encoding), b"1") for name in names])


WRITTEN = [
    ("cp850", DOS, ["Gänse/Bild_1.jpg", "Gänse/Bild_ö.jpg"]),
    ("cp1252", NTFS, ["Gänse/Bild_1.jpg", "Gänse/Bild_ö.jpg"]),
    ("cp866", DOS, ["кошки/1.jpg", "собаки/1.jpg"]),
    ("cp1251", UNIX, ["кошки/1.jpg", "собаки/1.jpg"]),
    ("shift_jis", DOS, ["犬/1.jpg", "猫/1.jpg"]),
    ("shift_jis", DOS, ["表/1.jpg", "りんご/ソース.jpg"]),
    ("cp949", DOS, ["개/1.jpg", "고양이/1.jpg", "토끼/1.jpg"]),
    ("big5", DOS, ["貓/1.jpg", "鬱金香/1.jpg", "蒲公英/1.jpg"]),
    ("gbk", DOS, ["猫/1.jpg", "狗/1.jpg"]),
    ("gbk", UNIX, ["美食/凉皮.jpg", "美食/肉夹馍.jpg"]),
]


@pytest.mark.feature("D6")
@pytest.mark.parametrize(("encoding", "host", "names"), WRITTEN)
def test_undeclared_names_of_a_zip_are_decoded_together(
    tmp_path: Path, encoding: str, host: int, names: list[str]
) -> None:
    archive = open_archive(zip_of(tmp_path / "a.zip", *names, encoding=encoding, host=host))

    assert used(archive) == sorted(names)
    assert names[0].split("/")[0] in archive.warnings[0]
    assert f"were read as {encoding}" in archive.warnings[0]


@pytest.mark.feature("D6")
@pytest.mark.parametrize(
    ("encoding", "names"), [(encoding, names) for encoding, _, names in WRITTEN if encoding not in ("cp850", "cp866")]
)
def test_undeclared_names_of_a_tar_are_decoded_together(tmp_path: Path, encoding: str, names: list[str]) -> None:
    archive = open_archive(tar_of(tmp_path / "a.tar.gz", *names, encoding=encoding))

    assert used(archive) == sorted(names)
    assert f"were read as {encoding}" in archive.warnings[0]


@pytest.mark.feature("D6")
@pytest.mark.parametrize(
    "file",
    [
        ZipFile(name="犬/1.jpg".encode(), flags=UTF8_FLAG),
        ZipFile(name="犬/1.jpg".encode(), host=UNIX),
        ZipFile(name="犬/1.jpg".encode("cp932"), extra=unicode_path_field("犬/1.jpg".encode("cp932"), "犬/1.jpg")),
    ],
)
def test_names_that_declare_utf8_or_are_utf8_give_no_warning(tmp_path: Path, file: ZipFile) -> None:
    archive = open_archive(write_zip(tmp_path / "a.zip", [file, ZipFile(name=b"cat/1.jpg")]))

    assert used(archive) == ["cat/1.jpg", "犬/1.jpg"]
    assert archive.warnings == []


def test_unicode_path_of_another_name_is_not_used(tmp_path: Path) -> None:
    """Tools that rename an entry keep its extra field, which has the checksum of the name it belongs to."""
    renamed = ZipFile(name=b"dog/1.jpg", extra=unicode_path_field(b"cat/1.jpg", "猫/1.jpg"))
    archive = open_archive(write_zip(tmp_path / "a.zip", [renamed, ZipFile(name=b"cat/1.jpg")]))

    assert used(archive) == ["cat/1.jpg", "dog/1.jpg"]


@pytest.mark.feature("D6")
def test_name_that_fits_two_encodings_is_a_guess_that_shows_both(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", "개/1.jpg", encoding="cp949", host=DOS)
    (tmp_path / "b.zip").write_bytes(path.read_bytes())

    (warning,) = open_archive(path).warnings
    assert "read as gbk, such as '俺'" in warning
    assert "could also be '개' (cp949)" in warning
    declared = open_archive(tmp_path / "b.zip", "cp949")
    assert used(declared) == ["개/1.jpg"]
    assert declared.warnings == []


def test_short_word_in_gbk_that_is_valid_utf8_is_a_guess(tmp_path: Path) -> None:
    archive = open_archive(zip_of(tmp_path / "a.zip", "猫/1.jpg", encoding="gbk", host=DOS))

    assert used(archive) == ["猫/1.jpg"]
    assert "could also be '챔' (cp949)" in archive.warnings[0]


@pytest.mark.parametrize("name", ["é", "né", "Öl", "Ål", "ñu"])
def test_short_word_in_utf8_of_a_tar_is_read_as_such(tmp_path: Path, name: str) -> None:
    archive = open_archive(write_tar_gz(tmp_path / "a.tgz", [(f"{name}/1.jpg".encode(), b"1"), (b"cat/1.jpg", b"1")]))

    assert used(archive) == ["cat/1.jpg", f"{name}/1.jpg"]
    assert archive.warnings == []


def test_names_of_two_systems_in_one_zip_are_decoded_apart(tmp_path: Path) -> None:
    files = [
        ZipFile(name="Gänse/1.jpg".encode("cp850"), host=DOS),
        ZipFile(name="Gänse/ö.jpg".encode("cp850"), host=DOS),
        ZipFile(name="Gänse/2.jpg".encode(), host=UNIX),
    ]

    assert used(open_archive(write_zip(tmp_path / "a.zip", files))) == ["Gänse/1.jpg", "Gänse/2.jpg", "Gänse/ö.jpg"]


def test_names_that_are_mostly_utf8_do_not_make_the_others_unreadable(tmp_path: Path) -> None:
    utf8 = [f"{name}/1.jpg".encode() for name in ("玫瑰", "郁金香", "蒲公英", "向日葵", "雏菊")]
    other = [f"{name}/1.jpg".encode("gbk") for name in ("水仙花", "菊花")]
    archive = open_archive(write_tar_gz(tmp_path / "a.tgz", [(name, b"1") for name in (*utf8, *other)]))

    assert {"玫瑰/1.jpg", "水仙花/1.jpg", "菊花/1.jpg"} < set(used(archive))
    assert "read as gbk, such as '水仙花', '菊花'" in archive.warnings[0]


def test_different_names_that_decode_to_one_path_are_not_merged(tmp_path: Path) -> None:
    files = [
        ZipFile(name="Gänse/ö.jpg".encode("cp850"), data=b"1"),
        ZipFile(name="Gänse/ö.jpg".encode(), data=b"22", flags=UTF8_FLAG),
        ZipFile(name=b"rest/1.jpg", data=b"3"),
    ]
    archive = open_archive(write_zip(tmp_path / "a.zip", files))

    assert used(archive) == ["Gänse/ö.jpg", "rest/1.jpg"]
    assert archive.read("Gänse/ö.jpg") == b"1"
    assert left_out(archive) == {"Gänse/ö.jpg (2)": "DuplicateName"}


def test_last_of_several_namesake_files_is_used_with_a_warning(tmp_path: Path) -> None:
    names = ("a/1.jpg", "a/2.jpg", "a/1.jpg")
    files = [ZipFile(name=name.encode(), data=bytes([number])) for number, name in enumerate(names)]
    archive = open_archive(write_zip(tmp_path / "a.zip", files))
    tar = open_archive(write_tar_gz(tmp_path / "b.tgz", [(file.name, file.data) for file in files]))

    assert archive.read("a/1.jpg") == tar.read("a/1.jpg") == b"\2"
    assert archive.warnings == ["s3://raw/a.zip holds several files named 'a/1.jpg': the last of each is used"]
    assert len(tar.warnings) == 1


def test_name_that_is_not_of_the_given_encoding_is_left_out(tmp_path: Path) -> None:
    names = [b"\xe7/1.jpg", "美食/1.jpg".encode("gbk")]
    archive = open_archive(write_zip(tmp_path / "a.zip", [ZipFile(name=name) for name in names]), "gbk")

    assert used(archive) == ["美食/1.jpg"]
    assert left_out(archive) == {"\\xe7/1.jpg": "BadName"}


def test_unusable_members_of_a_zip_are_left_out_by_name(tmp_path: Path) -> None:
    files = [
        ZipFile(name=b"a/good.png", data=b"1"),
        ZipFile(name=b"a/secret.png", data=b"1", flags=ENCRYPTED_FLAG),
        ZipFile(name=b"a/aes.png", data=b"1", method=99),
        ZipFile(name=b"a/lzma.png", data=b"1", method=14),
        ZipFile(name=b"a/link.png", data=b"/etc/passwd", mode=0o120777),
        ZipFile(name=b"../up.png", data=b"1"),
        ZipFile(name=b"/root.png", data=b"1"),
        ZipFile(name=b"a//slash.png", data=b"1"),
        ZipFile(name=b"a/line\n.png", data=b"1"),
        ZipFile(name=b"a/Icon\r", data=b""),
        ZipFile(name=b"__MACOSX/a/._good.png", data=b"1", flags=ENCRYPTED_FLAG),
    ]
    archive = open_archive(write_zip(tmp_path / "a.zip", files))

    assert used(archive) == ["a/good.png"]
    assert left_out(archive) == {
        "a/secret.png": "BadMember", "a/aes.png": "BadMember", "a/lzma.png": "BadMember", "a/link.png": "BadMember",
        "../up.png": "BadName", "/root.png": "BadName", "a//slash.png": "BadName", "a/line\\n.png": "BadName",
    }  # fmt: skip


def test_hard_link_in_a_tar_is_the_file_it_names(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        (tmp_path / "1.png").write_bytes(b"content")
        archive.add(tmp_path / "1.png", "a/1.png")
        for name, kind, target in (
            ("b/1.png", tarfile.LNKTYPE, "a/1.png"),
            ("b/2.png", tarfile.LNKTYPE, "a/none.png"),
            ("b/3.png", tarfile.SYMTYPE, "../a/1.png"),
            ("b/4.png", tarfile.LNKTYPE, "../../etc/passwd"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    archive_source = open_archive(tmp_path / "a.tgz")

    assert used(archive_source) == ["a/1.png", "b/1.png"]
    assert archive_source.read("b/1.png") == b"content"
    assert left_out(archive_source) == dict.fromkeys(("b/2.png", "b/3.png", "b/4.png"), "BadMember")


def test_links_that_repeat_a_file_too_often_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        (tmp_path / "1.png").write_bytes(bytes(50_000))
        tar.add(tmp_path / "1.png", "a/1.png")
        for number in range(100):
            member = tarfile.TarInfo(f"b/{number}.png")
            member.type, member.linkname = tarfile.LNKTYPE, "a/1.png"
            tar.addfile(member)

    with pytest.raises(BadData, match="its links repeat the same files too often"):
        Archive(tmp_path / "a.tgz", uri="s3://raw/a.tgz", stamp="1", max_archive_bytes=1_000_000)


def test_names_of_a_pax_header_are_utf8_beside_undeclared_ones(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("Gänse/1.jpg"))
        tar.addfile(tarfile.TarInfo("é/1.jpg"))
    archive = open_archive(tmp_path / "a.tgz", "gbk")

    assert used(archive) == ["Gänse/1.jpg", "é/1.jpg"]


def test_tar_with_a_damaged_header_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = write_tar_gz(tmp_path / "a.tgz", [(f"a/{number}.png".encode(), b"1") for number in range(4)])
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[2 * 1024 + 10] ^= 0xFF
    path.write_bytes(gzip.compress(bytes(data)))

    with pytest.raises(BadData, match="the header at byte 2048 is damaged"):
        open_archive(path)


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_tar_is_refused_as_damaged(tmp_path: Path, keep: float) -> None:
    path = write_tar_gz(tmp_path / "a.tgz", [(b"a/1.png", bytes(range(256)) * 100), (b"a/2.png", b"1" * 1000)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    (tmp_path / "b.tgz").write_bytes(gzip.compress(gzip.decompress(data)[:10_000]))

    for damaged in (path, tmp_path / "b.tgz"):
        with pytest.raises(BadData) as caught:
            open_archive(damaged)
        assert caught.value.reason == "BadArchive"


@pytest.mark.feature("D4")
@pytest.mark.feature("D6")
def test_tar_with_names_in_gbk_becomes_a_dataset_of_its_classes(
    prepare: Prepare, flowers: Path, tmp_path: Path
) -> None:
    names = {"roses": "玫瑰花", "tulips": "郁金香"}
    files = [
        (f"{names[path.parent.name]}/图片{path.name}".encode("gbk"), path.read_bytes())
        for path in sorted(flowers.rglob("*.*"))
    ]
    path = write_tar_gz(tmp_path / "flowers.tar.gz", [*files, (b"\xe7\xfc//\xe7.png", b"1")])
    result = prepare(flowers, source={"uri": f"file://{path}"})

    assert result.code == 0
    assert [entry["name"] for entry in result.message["classes"]] == ["玫瑰花", "郁金香"]
    assert result.message["ignored"] == {"BadName": 1}
    assert "read as gbk, such as '玫瑰花'" in result.message["warnings"][0]
