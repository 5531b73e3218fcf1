"""Several loggers of a run as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bloomery_trainer.publish.run_record import RunRecord
from bloomery_trainer.tracking.logger import CompositeLogger


@dataclass
class Calls:
    """A logger that keeps the calls that it got."""

    run: str | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def begin(self, step: int) -> None:
        self.calls.append(("begin", step))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append(("log", dict(metrics), step))

    def run_document(self) -> dict[str, str | None]:
        return {"experimentId": self.run, "runId": self.run}

    def close(self, status: str) -> None:
        self.calls.append(("close", status))


def test_each_logger_gets_every_call_in_order() -> None:
    first, second = Calls(), Calls(run="7")
    both = CompositeLogger([first, second])
    both.begin(3)
    both.log({"train/loss": 0.5}, 4)
    both.close("KILLED")

    assert first.calls == second.calls == [("begin", 3), ("log", {"train/loss": 0.5}, 4), ("close", "KILLED")]
    assert both.run_document() == {"experimentId": "7", "runId": "7"}


def test_a_record_of_nothing_takes_everything() -> None:
    record = RunRecord()
    record.begin(0)
    record.log({"train/loss": 0.5}, 1)
    record.close("FINISHED")

    assert record.run_document() == {"experimentId": None, "runId": None}
