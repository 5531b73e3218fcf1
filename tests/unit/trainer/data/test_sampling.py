"""The order of training images: every image equally often, the same order on any number of processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from bloomery_trainer.data.sampling import (
    EpochBatches,
    SampleIndex,
    SampleOrder,
    class_weights,
)
from bloomery_trainer.distributed.world import World
from bloomery_trainer.errors import BadConfig
from bloomery_trainer.recipe import step_batch


def batches(labels: list[int], *, batch: int, world: World | None = None, balanced: bool = False) -> EpochBatches:
    order = SampleOrder(np.array(labels), seed=3, balanced=balanced)
    return EpochBatches(order, images=len(labels), batch=batch, world=world or World())


def epoch(order: EpochBatches, number: int, first: int = 0) -> list[list[SampleIndex]]:
    order.epoch, order.first = number, first
    return list(order)


def test_images_beyond_the_last_full_batch_are_not_dropped() -> None:
    order = batches([0] * 63, batch=32)
    counts = Counter(image for number in range(2) for batch in epoch(order, number) for image, _ in batch)

    assert len(order) == 2
    assert len(counts) == 63
    assert sorted(counts.values())[0] == 2


@pytest.mark.parametrize(("images", "batch", "steps"), [(64, 32, 2), (63, 32, 2), (48, 32, 1), (120, 16, 7), (3, 4, 1)])
def test_an_epoch_has_the_steps_that_come_closest_to_all_images(images: int, batch: int, steps: int) -> None:
    assert len(batches([0] * images, batch=batch)) == steps


def test_all_images_are_drawn_equally_often_and_never_twice_alike() -> None:
    order = batches([0] * 10, batch=4)
    draws = [draw for number in range(15) for batch in epoch(order, number) for draw in batch]

    assert len(draws) == 15 * 2 * 4
    assert set(Counter(image for image, _ in draws).values()) == {12}
    assert len(set(draws)) == len(draws)


def test_processes_share_the_batches_of_one_process() -> None:
    alone = batches([0, 1] * 17, batch=6)
    shares = [batches([0, 1] * 17, batch=6, world=World(rank=rank, size=3)) for rank in range(3)]

    for number in range(3):
        together = zip(*(epoch(share, number) for share in shares), strict=True)
        assert [[draw for draws in zip(*step, strict=True) for draw in draws] for step in together] == epoch(
            alone, number
        )


def test_an_epoch_entered_midway_goes_on_with_the_same_batches() -> None:
    order = batches([0, 1] * 20, batch=8)

    assert epoch(order, 4, first=2) == epoch(batches([0, 1] * 20, batch=8), 4)[2:]
    assert epoch(order, 4) != epoch(order, 5)


@pytest.mark.feature("T24")
def test_balanced_sampling_draws_every_class_equally_often() -> None:
    labels = [0] * 50 + [1] * 8 + [2] * 5
    order = batches(labels, batch=21, balanced=True)
    for number in range(6):
        drawn = Counter(labels[image] for batch in epoch(order, number) for image, _ in batch)
        assert sum(drawn.values()) == 63
        assert set(drawn.values()) == {21}


@pytest.mark.feature("T24")
def test_balanced_sampling_draws_the_images_of_a_class_equally_often() -> None:
    labels = [0] * 42 + [1] * 14 + [3] * 7
    order = batches(labels, batch=21, balanced=True)
    draws = [draw for number in range(2) for batch in epoch(order, number) for draw in batch]
    counts = Counter(image for image, _ in draws)

    assert {labels[image]: count for image, count in counts.items()} == {0: 1, 1: 3, 3: 6}
    assert len(counts) == 63
    assert len(set(draws)) == len(draws)
    assert draws == [
        draw
        for number in range(2)
        for batch in epoch(batches(labels, batch=21, balanced=True), number)
        for draw in batch
    ]


def test_the_batch_shrinks_to_what_the_processes_can_share() -> None:
    assert step_batch(32, images=1000, processes=2) == 32
    assert step_batch(256, images=60, processes=1) == 60
    assert step_batch(256, images=145, processes=2) == 144
    assert step_batch(64, images=1, processes=8) == 16


@pytest.mark.parametrize(("requested", "cure"), [(15, "make it a multiple of 2"), (2, "make it 4 or more")])
def test_a_batch_too_small_for_the_processes_is_refused(requested: int, cure: str) -> None:
    with pytest.raises(BadConfig, match=cure):
        step_batch(requested, images=1000, processes=2)


def test_fewer_images_than_processes_still_fill_a_batch() -> None:
    order = batches([0, 1, 1], batch=step_batch(32, images=3, processes=4), world=World(rank=1, size=4))

    assert [len(batch) for batch in epoch(order, 0)] == [2]


@pytest.mark.feature("T24")
def test_class_weights_are_inverse_to_the_images_and_average_one() -> None:
    labels = np.repeat([0, 1, 3], [60, 20, 20])
    weights = class_weights(labels, 4)

    assert (weights.dtype, weights.shape) == (torch.float32, (4,))
    assert float(weights[torch.from_numpy(labels)].mean()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(3)


@pytest.mark.feature("T24")
def test_class_weights_differ_by_ten_at_most() -> None:
    weights = class_weights(np.repeat([0, 1], [1000, 3]), 3)

    assert float(weights.max() / weights.min()) == pytest.approx(10)
