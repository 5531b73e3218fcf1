"""What a preparation has done so far, kept in the store, so that a killed one goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import TrainerError
from bloomery_trainer.prepare.file_table import Looked
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.storage import Folder

log = logging.getLogger(__name__)

_BELOW = ".work"
_CHECKS = 2
"""Raised when the same image begins to be judged in another way."""


class Work:
    """The work files of one configuration, in the folder that takes the versions."""

    def __init__(self, target: Folder, config: PrepareConfig) -> None:
        """Names the files by what decides about an image: the sources and the rules."""
        asked = config.model_dump(mode="json", include={"source", "append", "rules"})
        key = hashlib.sha256(json.dumps([_CHECKS, asked], sort_keys=True).encode()).hexdigest()[:16]
        self._target = target
        self._below = f"{_BELOW}/{key}"

    def checks(self) -> Iterator[list[Looked]]:
        """Yields what an earlier run has found, some images at a time."""
        for file in self._target.list(f"{self._below}/checks"):
            content = self._target.read_if_there(file.path) or b""
            yield [_looked(json.loads(line)) for line in content.splitlines()]

    def save_checks(self, looks: Sequence[Looked]) -> None:
        """Keeps what was found."""
        lines = [json.dumps([*look[:4], look.sha256 and look.sha256.hex(), *look[5:]]) for look in looks]
        self._target.write(f"{self._below}/checks/{uuid.uuid4().hex}.jsonl", "\n".join(lines).encode())

    def shard(self, version: str, name: str) -> Shard | None:
        """A shard that an earlier run has written whole."""
        content = self._target.read_if_there(f"{self._below}/{version}/{name}.json")
        if content is None:
            return None
        shard = Shard(**json.loads(content))
        try:
            return shard if self._target.size_of(f"{version}/{name}") == shard.bytes else None
        except FileNotFoundError:
            return None

    def save_shard(self, version: str, shard: Shard) -> None:
        """Keeps that a shard is written."""
        self._target.write(f"{self._below}/{version}/{shard.name}.json", json.dumps(shard.document()).encode())

    def clear(self) -> None:
        """Removes all work files, also those of other configurations; what cannot be removed does no harm."""
        try:
            self._target.clear(_BELOW)
        except TrainerError as error:
            log.warning("work files are left under %s/%s: %s", self._target.uri, _BELOW, error)


def _looked(values: list[object]) -> Looked:
    source, path, size, stamp, sha256, *rest = values
    return Looked._make((source, path, size, stamp, bytes.fromhex(str(sha256)) if sha256 else None, *rest))
