"""The state of a preparation in the store, from which one that was killed resumes."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bloomery_trainer.config import PrepareConfig
from bloomery_trainer.errors import BadConfig, BadData, TrainerError
from bloomery_trainer.prepare.file_table import Inspection
from bloomery_trainer.prepare.shards import Shard
from bloomery_trainer.storage import Folder

logger = logging.getLogger(__name__)

_STATE_FOLDER = ".work"
_INSPECTION_VERSION = 2
"""Increased when the inspection of the same image changes its result."""


class ResumeState:
    """The state files of one configuration, in the folder of the dataset's versions."""

    def __init__(self, target: Folder, config: PrepareConfig) -> None:
        """Name the files by what decides about an image: the sources and the rules."""
        hash_input = config.model_dump(mode="json", include={"source", "append", "rules"})
        for source in (hash_input["source"], *hash_input["append"]):
            # The hashes of earlier releases stay as they are, and these change no inspection.
            for name in ("encoding", "from_", "trust_above"):
                source.pop(name, None)
        # Nor do the copies of an image.
        hash_input["rules"].pop("leaks")
        document = json.dumps([_INSPECTION_VERSION, hash_input], sort_keys=True)
        self._target = target
        self._folder = f"{_STATE_FOLDER}/{hashlib.sha256(document.encode()).hexdigest()[:16]}"

    def inspections(self) -> Iterator[list[Inspection]]:
        """Yield the results of earlier runs, some images at a time."""
        for file in self._target.list(f"{self._folder}/checks"):
            content = self._target.read_if_there(file.path) or b""
            yield [_parse_inspection(json.loads(line)) for line in content.splitlines()]

    def save_inspections(self, inspections: Sequence[Inspection]) -> None:
        """Save results."""
        lines = [json.dumps(_format_inspection(inspection)) for inspection in inspections]
        self._target.write(f"{self._folder}/checks/{uuid.uuid4().hex}.jsonl", "\n".join(lines).encode())

    def find_shard(self, version: str, name: str) -> Shard | None:
        """Return a shard that an earlier run has completed."""
        content = self._target.read_if_there(f"{self._folder}/{version}/{name}.json")
        if content is None:
            return None
        shard = Shard(**json.loads(content))
        try:
            return shard if self._target.size_of(f"{version}/{name}") == shard.bytes else None
        except FileNotFoundError:
            return None

    def save_shard(self, version: str, shard: Shard) -> None:
        """Save that a shard is complete."""
        self._target.write(f"{self._folder}/{version}/{shard.name}.json", json.dumps(shard.to_json()).encode())

    def clear(self) -> None:
        """Delete all state files, also those of other configurations; files that cannot be deleted do no harm."""
        try:
            self._target.clear(_STATE_FOLDER)
        except TrainerError as error:
            logger.warning("state files are left under %s/%s: %s", self._target.uri, _STATE_FOLDER, error)


@contextmanager
def open_resume_state(target: Folder, config: PrepareConfig) -> Iterator[ResumeState]:
    """Open the state; it is kept only after an error that another run may not have."""
    state = ResumeState(target, config)
    try:
        yield state
    except (BadConfig, BadData):
        state.clear()
        raise
    state.clear()


def _format_inspection(inspection: Inspection) -> list[object]:
    digest, text, fingerprint = inspection.sha256, inspection.label_text, inspection.fingerprint
    return [
        *inspection[:4],
        digest and digest.hex(),
        *inspection[5:9],
        None if text is None else text.hex(),
        fingerprint and base64.b64encode(fingerprint).decode(),
        inspection.issues,
    ]


def _parse_inspection(values: list[Any]) -> Inspection:
    # Earlier releases wrote less: no fingerprint, and the text only if there was one.
    source, path, size, stamp, sha256, extension, class_name, reason, detail, *rest = values
    text, fingerprint, issues = (*rest, None, None, None)[:3]
    return Inspection(
        source, path, size, stamp, bytes.fromhex(sha256) if sha256 else None, extension, class_name, reason, detail,
        None if text is None else bytes.fromhex(text), base64.b64decode(fingerprint) if fingerprint else None, issues,
    )  # fmt: skip
