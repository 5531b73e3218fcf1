"""The prediction of a share, part after part: while one part is written, the next one is computed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bloomery_model.sources.base import Source
from bloomery_model.task_errors import BadData
from bloomery_serving.batch.file_list import Share, list_share, read_list
from bloomery_serving.batch.output import IgnoredFile, Output, Part, ShareRecord
from bloomery_serving.batch.pipeline import Predictor
from bloomery_serving.prediction import Prediction

logger = logging.getLogger(__name__)

PART_FILES = 500
"""Files of a part: a restart repeats at most so many, for each process."""


@dataclass(frozen=True)
class ShareRun:
    """One run over a share.

    Attributes:
        share: the part of the source's files.
        owner: identity of the batch prediction.
        digest: of the model.
        output: of the share.
        list_file: local file for the list of the share's files.
        on_progress: called with each new state.
    """

    share: Share
    owner: str
    digest: str
    output: Output
    list_file: Path
    on_progress: Callable[[ShareRecord], None]

    def begin(self, source: Source) -> ShareRecord:
        """Return the state of the share; list its files unless an earlier run has done so.

        Raises:
            BadConfig: the output is that of another batch prediction, or of another model.
            BadData: the source is empty.
        """
        record = self.output.read_record(self.owner, self.digest)
        if record is None:
            counts = list_share(source, self.share, self.list_file)
            if not counts.total:
                raise BadData("NoImages", f"there is nothing under {source.uri}")
            # Others may have listed their files meanwhile, and found no state either.
            self.output.claim(self.owner, self.digest)
            self.output.write_list(self.list_file)
            record = ShareRecord(owner=self.owner, digest=self.digest, files=counts.share, total=counts.total)
            self.output.write_record(record)
        else:
            # Again, as releases before this one made no claim.
            self.output.claim(self.owner, self.digest)
            self.output.read_list(self.list_file)
        logger.info(
            "%d of the %d files of this process are done; there are %d in all", record.done, record.files, record.total
        )
        self.on_progress(record)
        return record

    async def predict(self, predictor: Predictor, record: ShareRecord) -> ShareRecord:
        """Predict the files that are left; return the state at the end.

        Raises:
            TaskError: the source, the output or the model cannot be used.
        """
        loop, writing = asyncio.get_running_loop(), None
        outcomes = predictor.predict(read_list(self.list_file, skip=record.done))
        async for part in _in_parts(outcomes, first=record.parts):
            if writing is not None:
                record = self._advance(await writing)
            writing = loop.run_in_executor(None, partial(self.output.write_part, part, record))
        return record if writing is None else self._advance(await writing)

    def _advance(self, record: ShareRecord) -> ShareRecord:
        logger.info("%d of %d files are done", record.done, record.files)
        self.on_progress(record)
        return record


async def _in_parts(outcomes: AsyncIterator[Prediction | IgnoredFile], *, first: int) -> AsyncIterator[Part]:
    """Yield outcomes as numbered parts."""
    number, pending = first, list[Prediction | IgnoredFile]()
    async for outcome in outcomes:
        pending.append(outcome)
        if len(pending) == PART_FILES:
            yield Part.of(number, pending)
            number, pending = number + 1, []
    if pending:
        yield Part.of(number, pending)
