"""Data models of requests and answers, as /openapi.json documents them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from bloomery_serving import __version__

EXTENSIONS = ("binary_tensor_data", "classification")
"""The Open Inference Protocol's extensions that the server has."""

_MAX_ITEMS = 8
"""Inputs, outputs and dimensions: more than there are, so that a few too many get our own error message, but so few
that a request full of them is no burden."""


_Parameters = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
"""Parameters of the protocol. Clients that send every field send null for those that are not set."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ServedModel(_Answer):
    """The model that answered, as far as it has a name."""

    name: str | None = None
    version: str | None = None
    digest: str
    variant: str | None = None


class Explanation(_Answer):
    """An error, for programs and for people."""

    code: str
    message: str


class Refusal(_Answer):
    """The answer to a request that is refused."""

    error: Explanation


class OneImage(_Answer):
    """The answer to one image: its label, and each class' probability, the likeliest first.

    ``unknown`` is true, and the label null, if the service answers only from a confidence on that this image lacks.
    """

    label: str | None
    unknown: bool = False
    scores: dict[str, float]
    model: ServedModel


class ImageOfSeveral(_Answer):
    """One of several images: id, label, or unknown, and scores, or the error."""

    file: str
    id: str | None = None
    label: str | None = None
    unknown: bool = False
    scores: dict[str, float] | None = None
    error: Explanation | None = None


class SeveralImages(_Answer):
    """The answer to several images, in their order."""

    predictions: list[ImageOfSeveral]
    model: ServedModel


class Feedback(BaseModel):
    """The true class of an image: the id of its prediction, and the class' name.

    ``newClass`` allows a class that the model does not have; without it, a name that is misspelled would become one.
    """

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)

    id: Annotated[str, Field(max_length=1024)]
    label: Annotated[str, Field(max_length=4096)]
    new_class: bool = False


class FeedbackAnswer(_Answer):
    """The true class as it is stored."""

    id: str
    label: str


class FeedbackOfSeveral(_Answer):
    """One of several true classes as it is stored, or the error."""

    id: str
    label: str | None = None
    error: Explanation | None = None


class SeveralFeedbackAnswers(_Answer):
    """The answer to several true classes, in their order."""

    feedback: list[FeedbackOfSeveral]


class Live(BaseModel):
    """Whether the server can go on; false if only a new start will help."""

    live: bool


class Ready(BaseModel):
    """Whether the server can predict."""

    ready: bool


class ModelReady(Ready):
    """Whether the model can predict."""

    name: str


class ServerMetadata(BaseModel):
    """The server's name, version and extensions."""

    name: str = "bloomery"
    version: str = __version__
    extensions: tuple[str, ...] = EXTENSIONS


class TensorMetadata(BaseModel):
    """The form of a tensor; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]
    """``preprocess``: from an image to the tensor; ``preprocess_source``: where that is from; ``engine``: the program
    that computes, why, and the figures of those that were measured."""


class InputTensor(BaseModel):
    """One input of a request; ``data`` is left out if they are binary."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=_MAX_ITEMS)]
    datatype: str
    parameters: _Parameters = {}
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """One output that a request asks for."""

    name: str
    parameters: _Parameters = {}


class InferRequest(BaseModel):
    """A request to infer; without ``outputs`` the answer has all of them."""

    id: str | None = None
    parameters: _Parameters = {}
    inputs: Annotated[list[InputTensor], Field(max_length=_MAX_ITEMS)]
    outputs: Annotated[
        list[RequestedOutput],
        Field(max_length=_MAX_ITEMS),
        BeforeValidator(lambda value: [] if value is None else value),
    ] = []


class OutputTensor(TensorMetadata):
    """One output; its data are in the JSON, or behind it if the parameters have binary_data_size."""

    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferAnswer(BaseModel):
    """The answer to a request to infer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class ProtocolRefusal(BaseModel):
    """The answer to a request of the protocol that is refused."""

    error: str
