"""The output folder: predictions in parts that are written once, ignored files, and the state of each share.

``predictions/``, ``ignored/`` and, for images in folders of their classes, ``folders/`` and ``unknown/`` are for
people; a restart goes on from ``state/``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bloomery_model.parallel import map_in_order
from bloomery_model.sources.base import DamagedFile, Source
from bloomery_model.sources.names import BadName, check_key
from bloomery_model.stores import Folder
from bloomery_model.task_errors import BadConfig
from bloomery_serving.batch.formats import PredictionFormat
from bloomery_serving.prediction import Prediction

logger = logging.getLogger(__name__)

_CONCURRENT_REQUESTS = 16
_CLAIM_PATH = "state/claim.json"


class IgnoredFile(NamedTuple):
    """A file without a prediction, with the reason."""

    file: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Part:
    """Outcomes of consecutive files of a share."""

    number: int
    predictions: Sequence[Prediction]
    ignored: Sequence[IgnoredFile]

    @classmethod
    def of(cls, number: int, outcomes: Sequence[Prediction | IgnoredFile]) -> Part:
        """Return the part of some outcomes, in their order."""
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        return cls(number, predictions, [outcome for outcome in outcomes if isinstance(outcome, IgnoredFile)])


class Claim(BaseModel):
    """The batch prediction that an output folder belongs to.

    Attributes:
        owner: the identity of the batch prediction.
        digest: of the model.
    """

    model_config = ConfigDict(frozen=True)

    owner: str
    digest: str


class ShareRecord(Claim):
    """The state of a share, written after each of its parts.

    Attributes:
        files: number of files of the share; ``total`` is that of all.
        parts: number of parts that are complete.
        images: number of images with a prediction in them.
        ignored: number of other files in them, by reason.
    """

    files: int
    total: int
    parts: int = 0
    images: int = 0
    ignored: Mapping[str, int] = {}

    @property
    def done(self) -> int:
        """Number of files in complete parts."""
        return self.images + sum(self.ignored.values())


class Output:
    """The output of one share."""

    def __init__(
        self,
        folder: Folder,
        style: PredictionFormat,
        labels: Sequence[str],
        *,
        index: int,
        copies_of: Source | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: of all shares together.
            style: of the files of predictions.
            labels: the names of all classes.
            index: the number of the share.
            copies_of: the source whose images are copied into folders of their classes; None: none are.
        """
        self._folder = folder
        self._style = style
        self._labels = labels
        self._index = index
        self._copied_source = copies_of

    @property
    def list_path(self) -> str:
        """The path of the list of the share's files."""
        return f"state/{self._index:05}.files.jsonl.gz"

    def read_record(self, owner: str, digest: str) -> ShareRecord | None:
        """Return the state of the share; None if it was not begun.

        Args:
            owner: the identity of the batch prediction.
            digest: of the model.

        Raises:
            BadConfig: the folder has the output of another batch prediction, or of another model.
        """
        records = [self._read_record(index) for index in (0, self._index)]
        # The state is written before the first part, so a part without a state is of something else.
        if records[-1] is None and self._folder.read_if_there(self._part_path(0)) is not None:
            raise self._in_use()
        for claim in filter(None, (*records, self._read_claim())):
            self._require_own(claim, owner, digest)
        return records[-1]

    def claim(self, owner: str, digest: str) -> None:
        """Make the folder that of one batch prediction and model, for all of its processes, before anything is written.

        Raises:
            BadConfig: it is that of another batch prediction, or of another model.
        """
        self._folder.write_new(_CLAIM_PATH, Claim(owner=owner, digest=digest).model_dump_json().encode())
        self._require_claim(owner, digest)

    def _require_claim(self, owner: str, digest: str) -> None:
        claim = self._read_claim()
        if claim is None:  # somebody deleted it
            raise self._in_use()
        self._require_own(claim, owner, digest)

    def _read_claim(self) -> Claim | None:
        content = self._folder.read_if_there(_CLAIM_PATH)
        try:
            return None if content is None else Claim.model_validate_json(content)
        except ValidationError as error:
            raise self._in_use() from error

    def _require_own(self, claim: Claim, owner: str, digest: str) -> None:
        if claim.owner != owner:
            raise self._in_use()
        if claim.digest != digest:
            raise BadConfig(
                "ModelChanged",
                f"the model has other files than when the predictions in {self._folder.uri} were begun; create a new "
                "BatchPrediction with an output.uri of its own",
            )

    def _in_use(self) -> BadConfig:
        return BadConfig(
            "OutputInUse",
            f"{self._folder.uri} has the predictions of another BatchPrediction; output.uri must be a folder of this "
            "one alone",
        )

    def read_other_records(self, processes: int) -> list[ShareRecord]:
        """Return the states of all other shares that were begun."""
        others = [index for index in range(processes) if index != self._index]
        with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as readers:
            return [record for record in readers.map(self._read_record, others) if record is not None]

    def write_list(self, path: Path) -> None:
        """Write the list of the share's files."""
        self._folder.upload(path, self.list_path)

    def read_list(self, target: Path) -> None:
        """Fetch the list of the share's files."""
        self._folder.download(self.list_path, target)

    def write_record(self, record: ShareRecord) -> None:
        """Write the state of the share."""
        self._folder.write(self._record_path(self._index), record.model_dump_json().encode())

    def write_part(self, part: Part, record: ShareRecord) -> ShareRecord:
        """Write a part, then the state of the share with it, which is returned.

        The predictions are what decides: those that an interrupted run has left stay, with the files that it ignored,
        as another processor may give another label to an image that is in the folder of its class already.

        Raises:
            BadConfig: another batch prediction, or one of another model, has claimed the folder.
        """
        # The first of two claims may have been lost, in a store without conditional writes.
        self._require_claim(record.owner, record.digest)
        labels, ignored = self._settle(part)
        if self._copied_source is not None:
            copy = partial(self._copy, self._copied_source)
            deque(map_in_order(copy, labels, threads=_CONCURRENT_REQUESTS), maxlen=0)
        counts = Counter(record.ignored) + Counter(file.reason for file in ignored)
        update = {"parts": part.number + 1, "images": record.images + len(labels), "ignored": dict(counts)}
        advanced = record.model_copy(update=update)
        self.write_record(advanced)
        return advanced

    def _settle(self, part: Part) -> tuple[Sequence[tuple[str, str | None]], Sequence[IgnoredFile]]:
        """Return the label of each image, and the ignored files, as the store has them from now on."""
        path, ignored_path = self._part_path(part.number), f"ignored/{self._index:05}-{part.number:05}.jsonl"
        content = self._folder.read_if_there(path)
        if content is not None:
            return self._style.read_labels(content), _decode_ignored(self._folder.read_if_there(ignored_path) or b"")
        if part.ignored or self._folder.read_if_there(ignored_path):
            self._folder.write(ignored_path, _encode_ignored(part.ignored))
        self._folder.write(path, self._style.encode(part.predictions))
        return [(prediction.file, prediction.label) for prediction in part.predictions], part.ignored

    def _copy(self, source: Source, image: tuple[str, str | None]) -> None:
        path, label = image
        folder = "unknown" if label is None else f"folders/{folder_name(label, self._labels)}"
        try:
            self._folder.write(f"{folder}/{flat_name(path)}", source.read(path))
        except (DamagedFile, FileNotFoundError) as error:
            logger.warning("%s is predicted, but not copied into a folder: %s", path, error)

    def _read_record(self, index: int) -> ShareRecord | None:
        content = self._folder.read_if_there(self._record_path(index))
        try:
            return None if content is None else ShareRecord.model_validate_json(content)
        except ValidationError as error:
            path = f"{self._folder.uri}/{self._record_path(index)}"
            raise BadConfig(
                "OutputInUse", f"{path} is not the state of a BatchPrediction; use another output.uri"
            ) from error

    def _part_path(self, number: int) -> str:
        return f"predictions/{self._index:05}-{number:05}.{self._style.extension}"

    def _record_path(self, index: int) -> str:
        return f"state/{index:05}.json"


def folder_name(label: str, labels: Sequence[str]) -> str:
    """Return the folder of a class: its name, or its number if no folder can have the name."""
    try:
        check_key(label)
    except BadName:
        return f"class-{labels.index(label)}"
    # A Dataset passes over hidden folders.
    return f"class-{labels.index(label)}" if label.startswith(".") else label


def flat_name(path: str) -> str:
    """Return the name of a copy in the folder of its class, in which a deeper folder would be part of the class' name.

    The digest keeps files of the same name in different folders apart.
    """
    folders, _, name = path.rpartition("/")
    if not folders:
        return name
    return f"{hashlib.sha256(folders.encode()).hexdigest()[:12]}-{name}"


def _encode_ignored(ignored: Sequence[IgnoredFile]) -> bytes:
    return "".join(json.dumps(file._asdict(), ensure_ascii=False) + "\n" for file in ignored).encode()


def _decode_ignored(content: bytes) -> list[IgnoredFile]:
    return [IgnoredFile(**json.loads(line)) for line in content.split(b"\n") if line]
