"""Batches for training and evaluation: unreadable images, memory, random numbers, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bloomery_model import Preprocess
from bloomery_trainer.config import Hyperparameters, TrainConfig
from bloomery_trainer.data import images, loader
from bloomery_trainer.data.augment import augmentation, largest_useful_side
from bloomery_trainer.data.dataset import ImageFiles, LocalDataset
from bloomery_trainer.data.decoders import normalise
from bloomery_trainer.data.images import views
from bloomery_trainer.data.loader import evaluation_loader, training_batches
from bloomery_trainer.data.memory import MemoryBudget
from bloomery_trainer.data.scratch_cache import StoredImages
from bloomery_trainer.data.unreadable import unreadable_note
from bloomery_trainer.distributed.world import World
from bloomery_trainer.engine import training
from bloomery_trainer.engine.context import build_run_context
from bloomery_trainer.errors import BadData
from bloomery_trainer.models.presets import PRESETS
from bloomery_trainer.progress_server import Progress
from bloomery_trainer.recipe import Recipe, resolve
from bloomery_trainer.shutdown import Shutdown
from bloomery_trainer.storage import S3Access
from bloomery_trainer.tracking.logger import CompositeLogger
from tests.unit.trainer.stored_images import image_files, jpeg

CPU = torch.device("cpu")
PREPROCESS = Preprocess.for_size(32)
NO_MEMORY = MemoryBudget(0, reserved_bytes=0)


def recipe(**fields: Any) -> Recipe:
    plain = {"batchSize": 4, "imageSize": 32, "augmentation": "None", "horizontalFlip": False}
    return resolve(Hyperparameters.model_validate({**plain, **fields}), PRESETS["resnet18"], images=24, start="scratch")


@pytest.fixture(params=["kept in memory", "decoded each time", "decoded by workers"])
def loading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MemoryBudget:
    """The memory for images, in all three ways of reading them."""
    workers = 2 if request.param == "decoded by workers" else 0
    monkeypatch.setattr(loader, "_worker_count", lambda *_, **__: workers)
    return MemoryBudget(10**9 if request.param == "kept in memory" else 0, reserved_bytes=0)


def some_damaged(path: Path, damaged: Sequence[int], *, images: int = 24, classes: int = 2) -> ImageFiles:
    contents = [b"\xff\xd8 no image" if number in damaged else jpeg(number) for number in range(images)]
    return image_files(path, contents, [number % classes for number in range(images)])


def read(batches: loader.TrainingBatches, epochs: int = 1) -> tuple[Tensor, Tensor]:
    parts = [batch for number in range(epochs) for batch in batches.epoch(number)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_a_damaged_image_is_replaced_by_the_next_of_its_class(loading: MemoryBudget, tmp_path: Path) -> None:
    files = some_damaged(tmp_path / "damaged", [3, 8])
    whole = some_damaged(tmp_path / "whole", [])
    contents = [jpeg(5 if number == 3 else 10 if number == 8 else number) for number in range(24)]
    replaced = image_files(tmp_path / "replaced", contents, whole.labels.tolist())

    batches = training_batches(files, PREPROCESS, recipe(), device=CPU, world=World(), budget=loading)
    images, labels = read(batches, epochs=2)
    expected = read(training_batches(replaced, PREPROCESS, recipe(), device=CPU, world=World()), epochs=2)

    torch.testing.assert_close((images, labels), expected, rtol=0, atol=0)
    assert batches.unreadable_keys(World()) == ("3.jpg", "8.jpg")


def test_each_damaged_image_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_worker_count", lambda *_, **__: 0)
    files = some_damaged(tmp_path, [3, 8])
    read(training_batches(files, PREPROCESS, recipe(), device=CPU, world=World(), budget=NO_MEMORY), epochs=3)

    assert len([record for record in caplog.records if record.getMessage().startswith("3.jpg ")]) == 1
    assert unreadable_note(["3.jpg", "8.jpg"]) == "2 images could not be read and were left out: 3.jpg, 8.jpg"
    assert unreadable_note([]) is None


def test_too_many_damaged_images_end_the_training_in_words(loading: MemoryBudget, tmp_path: Path) -> None:
    files = some_damaged(tmp_path, range(11))

    with pytest.raises(BadData, match=r"11 of 24 images cannot be decoded, and at most 10 .*: 0.jpg, 1.jpg"):
        read(training_batches(files, PREPROCESS, recipe(), device=CPU, world=World(), budget=loading))


def test_a_class_without_a_readable_image_is_bad_data(loading: MemoryBudget, tmp_path: Path) -> None:
    files = some_damaged(tmp_path, range(0, 24, 4), classes=4)

    with pytest.raises(BadData, match=r"no image of a class can be decoded: .*\.jpg"):
        read(training_batches(files, PREPROCESS, recipe(), device=CPU, world=World(), budget=loading))


def test_damaged_images_are_left_out_of_evaluation(tmp_path: Path) -> None:
    train, validation = some_damaged(tmp_path / "train", [1]), some_damaged(tmp_path / "validation", [0, 5])
    dataset = LocalDataset((), ("a", "b"), {"train": train, "validation": validation})
    readable = images.leave_out_unreadable(dataset, PREPROCESS, world=World())
    files = readable.splits["validation"]
    batches = evaluation_loader(files, PREPROCESS, batch=64, device=CPU, world=World())

    assert readable.unreadable == {"validation": ("0.jpg", "5.jpg")}
    assert readable.unreadable_keys == ("0.jpg", "5.jpg")
    assert [files.key(index) for index in range(2)] == ["1.jpg", "2.jpg"]
    assert sum(len(labels) for _, labels in batches) == len(files) == 22
    assert len(readable.splits["train"]) == 24


def test_a_split_without_a_readable_image_is_bad_data(tmp_path: Path) -> None:
    dataset = LocalDataset((), ("a", "b"), {"test": some_damaged(tmp_path, range(4), images=4)})

    with pytest.raises(BadData, match=r"no image of split test can be decoded: 0.jpg"):
        images.leave_out_unreadable(dataset, PREPROCESS, world=World())


@pytest.mark.parametrize("memory", [0, 10**9])
def test_reading_batches_draws_nothing_from_the_random_numbers_of_training(memory: int, tmp_path: Path) -> None:
    files = some_damaged(tmp_path, [])
    budget = MemoryBudget(memory, reserved_bytes=0)
    augmented = recipe(augmentation="TrivialAugment", horizontalFlip=True)
    batches = training_batches(files, PREPROCESS, augmented, device=CPU, world=World(), budget=budget)
    held_out = evaluation_loader(files, PREPROCESS, batch=8, device=CPU, world=World(), budget=budget)
    before = torch.get_rng_state()
    read(batches)
    list(held_out)

    assert torch.equal(torch.get_rng_state(), before)


def test_all_sources_of_images_share_one_memory_budget(tmp_path: Path) -> None:
    files = some_damaged(tmp_path, [])
    size = 24 * 3 * 32 * 32
    budget = MemoryBudget(size * 3 // 2 + 1000, reserved_bytes=1000)
    batches = training_batches(files, PREPROCESS, recipe(), device=CPU, world=World(), budget=budget)
    held_out = evaluation_loader(files, PREPROCESS, batch=8, device=CPU, world=World(), budget=budget)

    assert isinstance(batches.loader.dataset._source, images.CachedImages)  # type: ignore[attr-defined]
    assert isinstance(held_out.dataset._source, images.LazyImages)  # type: ignore[attr-defined]
    assert budget.available_bytes == size // 2
    del batches
    assert budget.available_bytes == size * 3 // 2


def test_images_count_with_their_true_size(tmp_path: Path) -> None:
    panoramas = image_files(tmp_path, [jpeg(number, (240, 40)) for number in range(24)], [0, 1] * 12)
    at_the_usual_shape = 24 * 3 * 40 * 60
    light = recipe(augmentation="Light")
    sources = [
        training_batches(
            panoramas, PREPROCESS, light, device=CPU, world=World(), budget=MemoryBudget(size, reserved_bytes=0)
        ).loader.dataset._source  # type: ignore[attr-defined]
        for size in (at_the_usual_shape, 5 * at_the_usual_shape)
    ]

    assert [type(source) for source in sources] == [images.LazyImages, images.CachedImages]


def test_the_budget_is_what_the_network_leaves() -> None:
    assert MemoryBudget.for_process(1000, share=0.3).available_bytes == 300
    assert MemoryBudget.for_process(1000, processes=2, reserved_bytes=450).available_bytes == 50
    budget = MemoryBudget.for_process(1000)
    budget.reserve(600)
    assert budget.available_bytes == 300
    budget.reserve(2000)
    assert budget.available_bytes == 0


@pytest.mark.parametrize(
    ("augmentation", "size", "side"), [("TrivialAugment", 224, 352), ("Light", 224, 268), ("None", 224, 256)]
)
def test_the_smallest_crop_is_not_enlarged(augmentation: str, size: int, side: int) -> None:
    chosen = recipe(imageSize=size, augmentation=augmentation)

    assert largest_useful_side(chosen, resize=Preprocess.for_size(size).resize) == side


@pytest.mark.parametrize(("photo", "memory", "shape"), [
    ((90, 70), 10**9, (64, 82)), ((60, 45), 10**9, (45, 60)), ((30, 20), 10**9, (32, 48)),
    ((90, 70), 24 * 3 * 34 * 44, (32, 41)),
])  # fmt: skip
def test_cached_photos_are_as_large_as_memory_allows(
    photo: tuple[int, int], memory: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    files = image_files(tmp_path, [jpeg(number, photo) for number in range(24)], [0, 1] * 12)
    budget = MemoryBudget(memory, reserved_bytes=0)
    chosen = recipe(augmentation="TrivialAugment")
    batches = training_batches(files, PREPROCESS, chosen, device=CPU, world=World(), budget=budget)

    source = batches.loader.dataset._source  # type: ignore[attr-defined]
    assert isinstance(source, images.CachedImages)
    assert source.pixels(0).shape == (3, *shape)


def test_larger_batch_does_not_enlarge_evaluation_batches(tmp_path: Path) -> None:
    files = image_files(tmp_path, [jpeg(number) for number in range(150)], [0, 1] * 75)
    sizes = [
        max(len(labels) for _, labels in evaluation_loader(files, PREPROCESS, batch=4096, device=CPU, world=world))
        for world in (World(), World(size=2))
    ]
    shared = evaluation_loader(files, PREPROCESS, batch=64, device=CPU, world=World(size=2))

    assert sizes == [64, 64]
    assert max(len(labels) for _, labels in shared) == 32


class _Constants(TorchFunctionMode):
    """Counts the tensors that are made of Python numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += function is torch.tensor
        return function(*args, **(kwargs or {}))


def test_normalising_copies_mean_and_deviation_to_the_device_once() -> None:
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 2, 2)
    first = normalise(images, PREPROCESS)
    with _Constants() as constants:
        second = normalise(images, PREPROCESS)

    assert constants.made == 0
    assert torch.equal(first, second)
    assert float(second[1, 2, 0, 1]) == pytest.approx((21 / 255 - 0.406) / 0.225)


def test_what_is_erased_has_the_mean_colour() -> None:
    augment = augmentation(recipe(augmentation="TrivialAugment", imageSize=64))
    assert augment is not None
    (erasing,) = (step for step in augment.transforms if type(step).__name__ == "RandomErasing")
    erasing.p = 1.0
    erased = erasing(torch.full((3, 64, 64), 255, dtype=torch.uint8))
    area = normalise(erased[None], PREPROCESS)[0][:, (erased[0] != 255)]

    assert erased.dtype == torch.uint8
    assert area.shape[1] > 0
    assert float(area.abs().max()) < 0.01


EVERY = np.arange(24)


def test_views_are_the_evaluated_one_its_mirror_image_and_crops(tmp_path: Path) -> None:
    files = some_damaged(tmp_path, [2])
    batches = dict(views(files, PREPROCESS, EVERY, count=4, seed=7, world=World()))
    again = dict(views(files, PREPROCESS, EVERY, count=4, seed=7, world=World()))
    other = dict(views(files, PREPROCESS, EVERY, count=4, seed=8, world=World()))
    framed, _ = next(iter(evaluation_loader(files.subset([0]), PREPROCESS, batch=1, device=CPU, world=World())))

    assert sorted(batches) == [0, 1, *range(3, 24)]
    assert (batches[0].shape, batches[0].dtype) == ((4, 3, 32, 32), torch.uint8)
    assert torch.equal(batches[0][0], framed[0])
    assert torch.equal(batches[0][1], framed[0].flip(-1))
    assert all(torch.equal(batches[index], again[index]) for index in batches)
    assert not torch.equal(batches[0][2], batches[0][3])
    assert not torch.equal(batches[0][2], other[0][2])


def test_images_in_memory_leave_room_for_a_training_step(tmp_path: Path) -> None:
    files = some_damaged(tmp_path / "images", [])
    dataset = LocalDataset((), ("a", "b"), {"train": files, "validation": files})
    config = TrainConfig.model_validate(
        {
            "kind": "train",
            "name": "small",
            "uid": "1234",
            "datasets": [{"name": "small", "version": "1", "uri": f"file://{tmp_path}"}],
            "preset": "resnet18",
            "hyperparameters": {"batchSize": 4, "imageSize": 32},
            "mlflow": {"experiment": "small", "registeredModel": "small"},
            "output": {"uri": f"file://{tmp_path}/output"},
        }
    )
    context = build_run_context(config, Progress(), Shutdown(), World(), S3Access.from_environment({}), tmp_path)
    context = training.with_recipe(context, dataset, None)
    step_bytes = training.reserved_bytes(context)

    def source(memory_bytes: int) -> object:
        crowded = training.with_recipe(
            replace(context, memory=MemoryBudget(memory_bytes, reserved_bytes=0)), dataset, None
        )
        plan = training.make_plan(crowded, dataset, CompositeLogger(), lambda _: None)
        return plan.batches.loader.dataset._source  # type: ignore[attr-defined]

    assert isinstance(source(step_bytes), StoredImages)
    assert isinstance(source(2 * step_bytes), images.CachedImages)


def test_views_are_mirrored_along_every_axis_of_the_recipe(tmp_path: Path) -> None:
    files = some_damaged(tmp_path, [])
    (pixels,) = [
        p
        for index, p in views(files, PREPROCESS, EVERY, count=4, seed=7, flip_axes=(-1, -2), world=World())
        if index == 0
    ]

    assert torch.equal(pixels[1], pixels[0].flip(-1))
    assert torch.equal(pixels[2], pixels[0].flip(-2))
