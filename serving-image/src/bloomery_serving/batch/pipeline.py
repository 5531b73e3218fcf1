"""From files to predictions, in order, while reads, decoding and the network run beside each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bloomery_model import ImageError
from bloomery_model.sources.base import DamagedFile, Source
from bloomery_serving.answers import Answerer
from bloomery_serving.batch.file_list import ListedFile
from bloomery_serving.batch.output import IgnoredFile
from bloomery_serving.batcher import Batcher, ImageResult, NotFinite
from bloomery_serving.image_file import ImageFile, Limits, describe_image_error, describe_not_finite, require_size
from bloomery_serving.prediction import Prediction

_CLIENT = "batch"
_REMOTE_READERS = 16
"""Concurrent reads over a network: enough to hide its latency."""
_LOCAL_READERS = 2
_MAX_FILES = 64
"""Files that are read, computed or wait for those before them."""


@dataclass(frozen=True)
class Predictor:
    """Predicts files of a source by the workers of the model server.

    Attributes:
        source: of the files.
        batcher: the workers.
        answerer: turns scores into answers.
        limits: of an image.
        max_bytes: of all files in memory together; one alone may have more.
    """

    source: Source
    batcher: Batcher
    answerer: Answerer
    limits: Limits
    max_bytes: int

    async def predict(self, files: Iterable[ListedFile]) -> AsyncIterator[Prediction | IgnoredFile]:
        """Yield the outcome of each file, in their order.

        Raises:
            TaskError: the source cannot be used.
        """
        pending: deque[tuple[int, asyncio.Task[Prediction | IgnoredFile]]] = deque()
        with ThreadPoolExecutor(_REMOTE_READERS if self.source.is_remote else _LOCAL_READERS) as readers:
            try:
                for file in files:
                    while pending and not self._has_room([size for size, _ in pending], file):
                        yield await pending.popleft()[1]
                    pending.append((file.size, asyncio.create_task(self._predict(file, readers))))
                while pending:
                    yield await pending.popleft()[1]
            finally:
                for _, task in pending:
                    task.cancel()

    def _has_room(self, sizes: list[int], file: ListedFile) -> bool:
        return len(sizes) < _MAX_FILES and sum(sizes) + file.size <= self.max_bytes

    async def _predict(self, file: ListedFile, readers: ThreadPoolExecutor) -> Prediction | IgnoredFile:
        if file.reason:
            return IgnoredFile(file.path, file.reason, file.detail)
        try:
            # Not even read: its bytes would count against those of all others.
            require_size(file.size, self.limits)
            data = await asyncio.get_running_loop().run_in_executor(readers, self.source.read, file.path)
        except DamagedFile as error:
            return IgnoredFile(file.path, error.reason, str(error))
        except FileNotFoundError:
            return IgnoredFile(file.path, "SourceChanged", "it was removed after the files were listed")
        except ImageError as error:
            return IgnoredFile(file.path, error.code, describe_image_error(file.path, error))
        (result,) = await self.batcher.submit(_CLIENT, [ImageFile(file.path, data)])
        return self._outcome(file.path, result)

    def _outcome(self, path: str, result: ImageResult) -> Prediction | IgnoredFile:
        match result:
            case ImageError():
                return IgnoredFile(path, result.code, describe_image_error(path, result))
            case NotFinite():
                return IgnoredFile(path, "ResultNotFinite", describe_not_finite(path))
            case scored:
                return Prediction.of(path, self.answerer.answer(scored), self.batcher.labels)
