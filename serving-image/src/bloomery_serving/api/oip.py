"""The Open Inference Protocol v2 over REST: health, metadata and infer.

Images go in as BYTES ("image": files, base64 in JSON), or as preprocessed FP32 tensors ("images", [N, 3, H, W]).
Source: the protocol's open_inference_rest.yaml, version 2.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from bloomery_serving import __version__
from bloomery_serving.api import tensors
from bloomery_serving.api.description import BYTES, OPEN, infer_body, refusals
from bloomery_serving.api.tensors import IMAGES, LABEL, SCORES, TENSORS, Expected
from bloomery_serving.errors import RequestError
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model, Scores
from bloomery_serving.predictor import Predictor
from bloomery_serving.settings import Settings


class Live(BaseModel):
    """Whether the server can go on; false where only a new start will help."""

    live: bool


class Ready(BaseModel):
    """Whether the server can predict."""

    ready: bool


class ModelReady(Ready):
    """Whether the model can predict."""

    name: str


class ServerMetadata(BaseModel):
    """What server this is."""

    name: str = "bloomery"
    version: str = __version__
    extensions: tuple[str, ...] = tensors.EXTENSIONS


class TensorMetadata(BaseModel):
    """What a tensor must be; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str = "onnx_onnxruntime"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(TensorMetadata):
    """One output; its data are in the JSON, or behind it where the parameters have binary_data_size."""

    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferAnswer(BaseModel):
    """What the model says."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Refusal(BaseModel):
    """Why a request of the protocol was not answered."""

    model_config = ConfigDict(title="ProtocolRefusal")

    error: str


_MISTAKES = (
    "The body is no request of the protocol, an input or output is not one of the model's, its data do not fit its "
    "shape, there are none or too many images, or one of them can not be read."
)
_EXAMPLE = {
    "inputs": [{"name": IMAGES, "datatype": "BYTES", "shape": [1], "data": ["<base64 of an image>"]}],
    "outputs": [{"name": SCORES}, {"name": LABEL}],
}


@dataclass(frozen=True)
class _Served:
    """The one model of this server, under the name and version that the protocol knows it by."""

    name: str
    version: str
    model: Model
    predictor: Predictor
    metrics: Metrics
    expected: Expected

    def require(self, name: str, version: str | None = None) -> None:
        """Refuse another model's name or version."""
        if (name, version or self.version) != (self.name, self.version):
            known = f"this server has {self.name!r} of version {self.version!r}"
            message = f"There is no model {name!r} of version {version or self.version!r}: {known}."
            raise RequestError(404, "ModelNotFound", message)

    def works(self, response: Response) -> bool:
        """Return whether predictions succeed, and let the answer's status say it too, which is all that probes see."""
        works = self.predictor.works
        response.status_code = 200 if works else 503
        return works

    @property
    def metadata(self) -> ModelMetadata:
        """What the model takes and gives."""
        side = self.model.preprocess.crop
        return ModelMetadata(
            name=self.name,
            versions=[self.version],
            inputs=[
                TensorMetadata(name=IMAGES, datatype="BYTES", shape=[-1]),
                TensorMetadata(name=TENSORS, datatype="FP32", shape=[-1, 3, side, side]),
            ],
            outputs=[
                TensorMetadata(name=SCORES, datatype="FP32", shape=[-1, len(self.model.labels)]),
                TensorMetadata(name=LABEL, datatype="BYTES", shape=[-1]),
            ],
        )

    async def answer(self, request: Request) -> Response:
        """Infer."""
        with self.metrics.stage("parse"):
            content, length = await request.body(), request.headers.get(tensors.JSON_LENGTH)
            # Off the event loop: a million numbers in JSON take their time.
            question = await asyncio.to_thread(tensors.read_request, content, length, self.expected)
        scores = await _scores(self.predictor, question)
        labels = self.model.labels
        content, headers = tensors.write_answer(question, scores, labels, model=self.name, version=self.version)
        return Response(content, headers=headers)


def build_router(predictor: Predictor, model: Model, metrics: Metrics, settings: Settings) -> APIRouter:
    """Return the protocol's routes for the one model of this server."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    expected = Expected(images=settings.max_images, side=model.preprocess.crop)
    version = settings.model_version or "1"
    served = _Served(settings.service_name, version, model, predictor, metrics, expected)
    _add_health(router, served)
    _add_metadata(router, served)
    _add_infer(router, served)
    return router


def _add_health(router: APIRouter, served: _Served) -> None:
    @router.get("/health/live", openapi_extra=OPEN, responses=_broken(Live))
    async def live(response: Response) -> Live:
        """Say whether the server can go on."""
        return Live(live=served.works(response))

    @router.get("/health/ready", openapi_extra=OPEN, responses=_broken(Ready))
    async def ready(response: Response) -> Ready:
        """Say whether the server can predict: before the model is loaded, nobody listens here."""
        return Ready(ready=served.works(response))

    told = refusals(Refusal, posted=False) | _broken(ModelReady)

    @router.get("/models/{model_name}/ready", responses=told)
    async def model_ready(model_name: str, response: Response) -> ModelReady:
        """Say whether the model is ready."""
        served.require(model_name)
        return ModelReady(name=served.name, ready=served.works(response))

    @router.get("/models/{model_name}/versions/{model_version}/ready", responses=told)
    async def version_ready(model_name: str, model_version: str, response: Response) -> ModelReady:
        """Say whether a version of the model is ready."""
        served.require(model_name, model_version)
        return ModelReady(name=served.name, ready=served.works(response))


def _add_metadata(router: APIRouter, served: _Served) -> None:
    told = refusals(Refusal, posted=False)

    @router.get("", responses=told)
    @router.get("/", include_in_schema=False)
    async def server() -> ServerMetadata:
        """Say what server this is."""
        return ServerMetadata()

    @router.get("/models/{model_name}", responses=told)
    async def metadata(model_name: str) -> ModelMetadata:
        """Say what the model takes and gives."""
        served.require(model_name)
        return served.metadata

    @router.get("/models/{model_name}/versions/{model_version}", responses=told)
    async def version_metadata(model_name: str, model_version: str) -> ModelMetadata:
        """Say what a version of the model takes and gives."""
        served.require(model_name, model_version)
        return served.metadata


def _add_infer(router: APIRouter, served: _Served) -> None:
    binary = {"application/octet-stream": {"schema": BYTES}}
    told = {200: {"model": InferAnswer, "content": binary}} | refusals(Refusal, _MISTAKES)
    body = infer_body(_EXAMPLE)

    @router.post("/models/{model_name}/infer", openapi_extra=body, responses=told)
    async def infer(model_name: str, request: Request) -> Response:
        """Classify images or tensors."""
        served.require(model_name)
        return await served.answer(request)

    @router.post("/models/{model_name}/versions/{model_version}/infer", openapi_extra=body, responses=told)
    async def version_infer(model_name: str, model_version: str, request: Request) -> Response:
        """Classify images or tensors with a version of the model."""
        served.require(model_name, model_version)
        return await served.answer(request)


def _broken(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {503: {"model": model, "description": "The last predictions all failed; a new start may help."}}


async def _scores(predictor: Predictor, question: tensors.Question) -> Scores:
    if not question.files:
        return await predictor.score(question.tensors)
    rows = []
    for row in await predictor.score_files(question.files):
        if isinstance(row, RequestError):
            # The protocol's answer is one tensor: it has no place for what is wrong with one image of several.
            raise row
        rows.append(row)
    return np.stack(rows)
