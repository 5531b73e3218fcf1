"""Progress of all processes of a batch prediction, as any of them answers."""

from __future__ import annotations

from typing import Any

from bloomery_serving.batch.output import ShareRecord
from bloomery_serving.batch.progress import Progress, totals


def share(**fields: Any) -> ShareRecord:
    return ShareRecord(owner="me", digest="sha256:1", **fields)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_figures_of_all_processes_are_read_again_after_a_while() -> None:
    clock, others, reads = (
        Clock(),
        [share(files=5, total=10, images=2)],
        list[float](),
    )

    def read_others() -> list[ShareRecord]:
        reads.append(clock.now)
        return list(others)

    progress = Progress(read_others, 2, clock=clock)
    assert progress.snapshot() == {"stage": "listing"}
    progress.update(share(files=5, total=10))
    first = progress.snapshot()
    others[0] = others[0].model_copy(update={"images": 4, "ignored": {"Format": 1}})
    clock.now = 1
    early = progress.snapshot()
    clock.now = 10
    second = progress.snapshot()

    assert first == {"stage": "predicting", "images": 2, "ignored": {}, "total": 10}
    # It is not 0 images per second, as no part has been written since the start.
    assert early == first
    assert second["images"] == 4
    assert second["ignored"] == {"Format": 1}
    assert second["imagesPerSecond"] == 0.3
    assert reads == [0, 10]


def test_ignored_files_are_summed_by_reason_the_most_frequent_first() -> None:
    records = [
        ShareRecord(
            owner="me", digest="sha256:1", files=9, total=20, images=5, ignored={"Format": 1, "DamagedImage": 2}
        ),
        share(files=9, total=20, images=7, ignored={"DamagedImage": 1}),
    ]

    figures = totals(records, 3)

    assert (figures["images"], figures["total"]) == (12, 20)
    assert list(figures["ignored"].items()) == [("DamagedImage", 3), ("Format", 1)]


def test_total_is_that_of_the_shares_once_all_have_begun() -> None:
    records = [share(files=9, total=20), share(files=10, total=19)]

    assert totals(records, 3)["total"] == 20
    assert totals(records, 2)["total"] == 19
