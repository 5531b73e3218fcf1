"""Captures: images that a service was asked about, each with a record of its answer and, later, its true label.

The model server writes them, and Datasets read them. An image is ``DATE/ID.EXT``, its record ``DATE/ID.json`` and its
true label ``DATE/ID.label.json``, so that each object is written whole by one writer and nobody loses another's write.
The class is in the documents alone: a folder of captures that is read as class folders trains nobody on guesses.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

RECORD_SUFFIX = ".json"
LABEL_SUFFIX = ".label.json"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""Many times the size of a record with the scores of 20,000 classes."""

Reason = Literal["Random", "LowConfidence", "PerClass"]
"""Why an image was captured: by chance, for an unsure answer, or as an example of its predicted class."""


class _Document(BaseModel):
    """A document beside an image; keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_json(self) -> bytes:
        """Return the document as it is stored."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


class AnsweringModel(_Document):
    """The model that answered, as far as it has a name."""

    digest: str
    name: str | None = None
    version: str | None = None


class CaptureRecord(_Document):
    """The answer for a captured image, and where it came from.

    Attributes:
        id: of the prediction.
        time: of the answer.
        image: the name of the image's file beside the record.
        sha256: of that file.
        predicted: the likeliest class.
        unknown: whether the service answered that it does not know.
        scores: the probability of each class of the model.
        reason: why it was captured.
        key: the name of the API key; empty without one.
    """

    id: str
    time: datetime
    image: str
    sha256: str
    predicted: str
    unknown: bool = False
    scores: dict[str, float]
    reason: Reason
    service: str
    namespace: str
    variant: str = ""
    model: AnsweringModel
    run: str = ""
    key: str = ""

    @property
    def confidence(self) -> float:
        """The score of the likeliest class."""
        return self.scores.get(self.predicted, 0.0)


class TrueLabel(_Document):
    """The class that somebody says a captured image has.

    Attributes:
        label: the class.
        time: of the feedback.
        key: the name of the API key that it came with; empty without one.
    """

    label: str
    time: datetime
    key: str = ""
