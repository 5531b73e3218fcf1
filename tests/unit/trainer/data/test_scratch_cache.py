"""Decoded images on the local disk: the same pixels, decoded once, within their room, and never in the way."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bloomery_trainer.data.decoders import ResizeDecoder
from bloomery_trainer.data.images import LazyImages
from bloomery_trainer.data.loader import evaluation_loader, training_batches
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.scratch_cache import ScratchCache, StoredImages
from bloomery_trainer.data.unreadable import UnreadableImage
from bloomery_trainer.distributed.world import World
from tests.unit.trainer.data.test_loader import CPU, NO_MEMORY, PREPROCESS, read, recipe
from tests.unit.trainer.stored_images import image_files, jpeg

pytestmark = pytest.mark.feature("T29")

IMAGES = 24
SIDE = 32


class CountedImages:
    """Decodes images, and counts how often."""

    def __init__(self, folder: Path, *, damaged: int | None = None) -> None:
        contents = [b"no image" if number == damaged else jpeg(number) for number in range(IMAGES)]
        self._source = LazyImages(image_files(folder, contents, [0, 1] * (IMAGES // 2)), ResizeDecoder(SIDE, SIDE))
        self.decoded = 0

    def __len__(self) -> int:
        return len(self._source)

    def pixels(self, index: int) -> Tensor:
        self.decoded += 1
        return self._source.pixels(index)


def open_cache(scratch: Path, *, limit_bytes: int | None = None) -> ScratchCache:
    scratch.mkdir(exist_ok=True)
    return ScratchCache(scratch, limit_bytes, reserved_bytes=0)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be half full, however full that of the test's machine is."""
    size = 100 * 2**30
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=size, used=size // 2, free=size // 2))


@pytest.fixture
def source(tmp_path: Path) -> CountedImages:
    (tmp_path / "images").mkdir()
    return CountedImages(tmp_path / "images")


def all_pixels(images: StoredImages | CountedImages) -> list[Tensor]:
    return [images.pixels(index) for index in range(len(images))]


def test_images_are_decoded_once_and_stay_the_same(source: CountedImages, tmp_path: Path) -> None:
    stored = open_cache(tmp_path / "scratch").open(source, b"images")
    first, second = all_pixels(stored), all_pixels(stored)

    assert source.decoded == IMAGES
    for expected, one, two in zip(all_pixels(source), first, second, strict=True):
        assert torch.equal(one, expected) and torch.equal(two, expected)


def test_another_process_reads_what_one_has_decoded(source: CountedImages, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "scratch")
    stored = cache.open(source, b"images")
    half = range(0, IMAGES, 2)
    process = multiprocessing.get_context("fork").Process(target=lambda: [stored.pixels(index) for index in half])
    process.start()
    process.join(60)
    assert process.exitcode == 0
    pixels = all_pixels(stored)

    assert source.decoded == IMAGES // 2
    assert all(map(torch.equal, pixels, all_pixels(source)))
    # A later container of the same pod finds the files of the one before.
    decoded = source.decoded
    assert all(map(torch.equal, all_pixels(cache.open(source, b"images")), pixels))
    assert source.decoded == decoded


def test_images_and_decoders_of_another_identity_are_stored_apart(source: CountedImages, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "scratch")
    cache.open(source, b"one").pixels(0)
    cache.open(source, b"other").pixels(0)

    assert source.decoded == 2


def test_images_beyond_the_room_are_decoded_each_time(source: CountedImages, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    open_cache(scratch)
    (scratch / "shard.tar").write_bytes(bytes(10_000))
    size = all_pixels(source)[0].nbytes
    source.decoded = 0
    limit = (10_000 + IMAGES // 2 * size) * 10 // 9
    stored = open_cache(scratch, limit_bytes=limit).open(source, b"images")
    for _ in range(3):
        assert all(map(torch.equal, all_pixels(stored), [source._source.pixels(index) for index in range(IMAGES)]))

    assert IMAGES // 3 <= (3 * IMAGES - source.decoded) // 2 <= IMAGES // 2
    assert folder_bytes(scratch) <= limit


def test_disk_that_takes_no_more_ends_no_training(
    source: CountedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stored = open_cache(tmp_path / "scratch").open(source, b"images")
    stored.pixels(0)
    monkeypatch.setattr(os, "pwritev", fail)
    assert all(map(torch.equal, all_pixels(stored), all_pixels(source)))
    assert caplog.text.count("takes no more decoded images: No space left on device") == 1


@pytest.mark.parametrize("change", ["cut", "overwritten", "removed"])
def test_damaged_file_is_decoded_again(source: CountedImages, tmp_path: Path, change: str) -> None:
    cache = open_cache(tmp_path / "scratch")
    expected = all_pixels(cache.open(source, b"images"))
    (file,) = (tmp_path / "scratch" / "decoded").glob("*/1")
    if change == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif change == "overwritten":
        file.write_bytes(bytes(file.stat().st_size))
    else:
        file.unlink()

    assert all(map(torch.equal, all_pixels(cache.open(source, b"images")), expected))


def test_image_that_cannot_be_decoded_is_named_each_time(tmp_path: Path) -> None:
    stored = open_cache(tmp_path / "scratch").open(CountedImages(tmp_path, damaged=3), b"images")
    for _ in range(2):
        with pytest.raises(UnreadableImage, match="3"):
            stored.pixels(3)


def test_disk_that_is_slower_than_decoding_is_left_alone(
    source: CountedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    read, decode = os.preadv, CountedImages.pixels

    def read_slowly(*arguments: object) -> int:
        now[0] += 1
        return read(*arguments)  # type: ignore[arg-type]

    def decode_fast(images: CountedImages, index: int) -> Tensor:
        now[0] += 0.1
        return decode(images, index)

    monkeypatch.setattr("bloomery_trainer.data.scratch_cache.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("bloomery_trainer.data.scratch_cache._TRIAL_IMAGES", 8)
    monkeypatch.setattr(os, "preadv", read_slowly)
    monkeypatch.setattr(CountedImages, "pixels", decode_fast)
    stored = open_cache(tmp_path / "scratch").open(source, b"images")
    all_pixels(stored)
    assert source.decoded == IMAGES
    all_pixels(stored)

    assert source.decoded == 2 * IMAGES - 8


def test_training_and_evaluation_see_the_same_from_the_disk(tmp_path: Path) -> None:
    files = image_files(tmp_path, [jpeg(number) for number in range(IMAGES)], [0, 1] * (IMAGES // 2))
    cache = open_cache(tmp_path / "scratch")
    chosen = recipe(augmentation="Light", horizontalFlip=True)
    for epochs in (1, 3):
        ours = training_batches(files, PREPROCESS, chosen, device=CPU, world=World(), budget=NO_MEMORY, cache=cache)
        plain = training_batches(files, PREPROCESS, chosen, device=CPU, world=World(), budget=NO_MEMORY)
        for one, other in zip(read(ours, epochs), read(plain, epochs), strict=True):
            assert torch.equal(one, other)
    held_out = [
        torch.cat(
            [images for images, _ in evaluation_loader(files, PREPROCESS, batch=8, device=CPU, world=World(), **how)]
        )
        for how in ({"budget": NO_MEMORY, "cache": cache}, {"budget": MemoryBudget(10**9, reserved_bytes=0)})
    ]
    assert torch.equal(*held_out)


def test_room_is_what_the_folder_may_hold_besides_its_content(tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(bytes(1000))

    assert ScratchCache(tmp_path, 10_000, reserved_bytes=2000).available_bytes == 10_000 - 1000 - 1000 - 2000
    assert ScratchCache(tmp_path, 1000, reserved_bytes=2000).available_bytes == 0
    assert ScratchCache(tmp_path, None, reserved_bytes=0).available_bytes > 0
