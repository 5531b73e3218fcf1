"""Sources that are a .zip, .tar.gz or .tgz, valid, damaged or malicious."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bloomery_model.sources.archive import Archive
from bloomery_trainer.errors import BadData
from testing.archives import ENCRYPTED_FLAG, UNIX, ZipFile, write_zip

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]
LIMIT = 5 * 2**30


def zip_of(folder: Path, target: Path, *, below: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, below + str(path.relative_to(folder)))
    return target


def tar_of(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, ".")
    return target


def zip_with(target: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return target


def tar_with(target: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return target


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def open_archive(path: Path, limit: int = LIMIT) -> Archive:
    return Archive(path, uri=f"file://{path}", stamp="1", max_archive_bytes=limit)


def refusal_message(path: Path, limit: int = LIMIT) -> str:
    with pytest.raises(BadData) as caught:
        open_archive(path, limit)
    return str(caught.value).replace(f"file://{path}", "it")


def names_in(path: Path) -> list[str]:
    return [file.path for file in open_archive(path).list()]


@pytest.mark.feature("D4")
@pytest.mark.parametrize(("pack", "name"), [(zip_of, "f.zip"), (tar_of, "f.tar.gz"), (tar_of, "f.tgz")])
def test_archive_gives_the_same_version_as_its_folders(
    prepare: Prepare, flowers: Path, tmp_path: Path, pack: Callable[[Path, Path], Path], name: str
) -> None:
    folders = prepare(flowers)
    archive = prepare(flowers, source={"uri": f"file://{pack(flowers, tmp_path / name)}"}, store="other")

    assert archive.code == 0
    assert archive.message["version"] == folders.message["version"]


@pytest.mark.feature("D4")
def test_common_top_folder_is_left_out(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    path = zip_of(flowers, tmp_path / "f.zip", below="flowers-2026/")
    result = prepare(flowers, source={"uri": f"file://{path}"}, exclude=["roses/0.png"])

    assert [entry["name"] for entry in result.message["classes"]] == ["roses", "tulips"]
    assert result.message["ignored"] == {"Excluded": 1}


@pytest.mark.feature("D3")
@pytest.mark.feature("D4")
def test_archive_may_hold_label_texts_or_split_folders(
    prepare: Prepare, write_image: WriteImage, flowers: Path, tmp_path: Path
) -> None:
    for number in range(40):
        write_image(tmp_path / "pairs" / f"{number}.png", seed=number)
        (tmp_path / "pairs" / f"{number}.txt").write_text("ab"[number % 2])
        folder = tmp_path / "split" / ("train", "val")[number % 2] / "ab"[number // 20]
        write_image(folder / f"{number}.png", seed=number)
    pairs = prepare(flowers, source={"uri": f"file://{zip_of(tmp_path / 'pairs', tmp_path / 'p.zip', below='p/')}"})
    split = prepare(
        flowers,
        source={"uri": f"file://{tar_of(tmp_path / 'split', tmp_path / 's.tgz')}"},
        rules={"minImagesPerClass": 2},
    )

    assert [entry["train"] + entry["validation"] for entry in pairs.message["classes"]] == [20, 20]
    assert split.message["classes"][0] == {"name": "a", "train": 10, "validation": 10, "test": 0}


@pytest.mark.feature("D8")
def test_archive_can_be_appended(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    path = zip_of(flowers / "tulips", tmp_path / "more.zip")
    result = prepare(flowers, append=[{"uri": f"file://{path}", "class": "tulips"}])

    assert result.message["images"] == 65
    assert result.message["quality"]["copies"] == 20


@pytest.mark.feature("D6")
@pytest.mark.parametrize(
    ("raw", "name"), [("美食/凉皮.png".encode(), "美食/凉皮.png"), ("美食/凉皮.png".encode("gbk"), "美食/凉皮.png")]
)
def test_names_in_gbk_are_decoded(tmp_path: Path, raw: bytes, name: str) -> None:
    stand_in = "x" * len(raw)
    path = zip_with(tmp_path / "a.zip", (stand_in, b"1"), ("b/c.png", b"2"))
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), raw))

    assert name in names_in(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../up.png", "leads out of the archive"),
        ("a/../../up.png", "leads out of the archive"),
        ("/etc/passwd.png", "is an absolute path"),
        ("C:/up.png", "is an absolute path"),
        ("a\\b.png", "has a backslash"),
        ("a//b.png", "is not a valid path"),
        ("a/./b.png", "is not a valid path"),
        ("a\nb.png", "is not a valid path"),
    ],
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str, words: str) -> None:
    in_zip = refusal_message(zip_with(tmp_path / "a.zip", (name, b"1")))
    in_tar = refusal_message(tar_with(tmp_path / "b.tgz", member(name)))

    assert in_zip.startswith(f"it is refused: the name {name!r} {words}")
    assert in_tar == in_zip


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_tar_of_nothing_but_links_and_devices_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar_with(tmp_path / "a.tgz", member("a/b.png", type=kind, linkname="/etc/passwd"))

    assert refusal_message(path).startswith("it is refused: 'a/b.png' is a link ")


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/b.png")
    link.external_attr = 0o120777 << 16

    assert "is a link" in refusal_message(zip_with(tmp_path / "a.zip", (link, b"/etc/passwd")))


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """A stored file that is encrypted has 12 bytes more than its size, which is no damage."""
    path = write_zip(tmp_path / "a.zip", [ZipFile(name=b"a/b.png", data=b"1", flags=ENCRYPTED_FLAG)])

    assert refusal_message(path) == "it is refused: 'a/b.png' is encrypted; pack it without a password"


def test_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(member("a/b.png", size=300 * 2**20), Zeros())

    assert refusal_message(tmp_path / "a.tgz").endswith(
        "unpacked it has more than 100 times its size; images do not compress so well"
    )
    assert [
        path.name for path in tmp_path.iterdir() if path.suffix == ".tar" and path.stat().st_size > 290 * 2**20
    ] == []


def test_archive_over_the_unpacked_limit_is_refused(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "a.zip", ("a/b.png", bytes(50_000)))

    assert "unpacked it has more than 0.0 MiB, 4 times rules.maxArchiveBytes" in refusal_message(path, limit=10_000)


def test_overlapping_files_are_refused(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "a.zip", *((f"a/{number}.png", bytes([number]) * 500) for number in range(3)))
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"PK\x01\x02", at + 1)) >= 0:
        struct.pack_into("<L", data, at + 20, len(data) - 200)
    path.write_bytes(data)

    assert refusal_message(path) == "it is refused: its files overlap"


def test_file_larger_than_its_directory_entry_is_ignored(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    path = zip_of(flowers, tmp_path / "f.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("roses/liar.png", bytes(100_000))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", data, entry + 24, 100)
    path.write_bytes(data)
    result = prepare(flowers, source={"uri": f"file://{path}"})

    assert (result.code, result.message["images"], result.message["ignored"]) == (0, 45, {"Corrupt": 1})


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\xff" * 18, b"\x1f\x8b" + b"\0" * 40])
def test_damaged_archive_is_bad_data(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    assert refusal_message(tmp_path / name).startswith("it cannot be read: ")


def test_endless_tar_header_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(member("x", type=tarfile.XHDTYPE, size=2**21), Zeros())

    assert refusal_message(tmp_path / "a.tgz") == "it is refused: one of its headers is far too large"


@pytest.mark.feature("D4")
def test_archive_over_the_limit_is_refused_before_download(prepare: Prepare, flowers: Path, tmp_path: Path) -> None:
    path = zip_of(flowers, tmp_path / "f.zip")
    result = prepare(flowers, source={"uri": f"file://{path}"}, rules={"maxArchiveBytes": 2**10})

    assert (result.code, result.reason) == (3, "ArchiveTooLarge")
    assert result.sentence.endswith("MiB; rules.maxArchiveBytes allows 0.0 MiB")


def test_missing_archive_is_bad_configuration(prepare: Prepare, tmp_path: Path) -> None:
    result = prepare(tmp_path, source={"uri": f"file://{tmp_path}/none.zip"})

    assert (result.code, result.sentence) == (2, f"there is no file file://{tmp_path}/none.zip")


def test_zip64_members_are_listed_and_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        for number in range(66_000):
            archive.writestr(f"class/{number}.png", str(number))
    archive = open_archive(tmp_path / "a.zip")

    assert len(list(archive.list())) == 66_000
    assert archive.read("class/65999.png") == b"65999"


@pytest.mark.feature("D4")
def test_all_files_of_a_zip_with_count_modulo_65536_are_listed(tmp_path: Path) -> None:
    """macOS writes no ZIP64 fields, whatever the number of files."""
    files = (ZipFile(name=b"class/%d.png" % number, data=b"%d" % number, host=UNIX) for number in range(65_596))
    archive = open_archive(write_zip(tmp_path / "a.zip", files))

    assert len(list(archive.list())) == 65_596
    assert archive.read("class/65595.png") == b"65595"


@pytest.mark.feature("D4")
def test_files_beyond_4_gib_are_read_by_offsets_modulo_4_gib(tmp_path: Path) -> None:
    holes = [ZipFile(name=b"roses/hole%d.png" % number, hole=3 * 2**30, host=UNIX) for number in range(3)]
    first = ZipFile(name=b"roses/1.png", data=b"1", host=UNIX)
    last = [ZipFile(name=b"roses/%d.png" % number, data=b"%d" % number, host=UNIX) for number in (2, 3)]
    archive = open_archive(write_zip(tmp_path / "a.zip", [first, *holes, *last]))

    assert [archive.read(f"roses/{number}.png") for number in (1, 2, 3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("count", [1, 3, 65_537])
def test_zip_whose_end_says_another_number_of_files_is_refused(tmp_path: Path, count: int) -> None:
    path = write_zip(tmp_path / "a.zip", [ZipFile(name=b"a/1.png"), ZipFile(name=b"a/2.png")], count=count)

    assert refusal_message(path) == (
        f"it cannot be read: its directory has 2 entries, and its end says {count % 65_536}"
    )


class Zeros(io.RawIOBase):
    """An endless file of zero bytes."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(size)
