"""The Open Inference Protocol v2 over REST: health, metadata and infer.

Images go in as BYTES ("image": files, base64 in JSON), or as preprocessed FP32 tensors ("images", [N, 3, H, W]).
Source: the protocol's open_inference_rest.yaml, version 2.
"""

from __future__ import annotations

import asyncio
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
    """Whether the process answers."""

    live: bool = True


class Ready(BaseModel):
    """Whether the server can predict."""

    ready: bool = True


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


def build_router(predictor: Predictor, model: Model, metrics: Metrics, settings: Settings) -> APIRouter:
    """Return the protocol's routes for the one model of this server."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    name, version = settings.service_name, settings.model_version or "1"
    read = refusals(Refusal, posted=False)
    binary = {"application/octet-stream": {"schema": BYTES}}
    asked = {200: {"model": InferAnswer, "content": binary}} | refusals(Refusal, _MISTAKES)
    body = infer_body(_EXAMPLE)
    expected = Expected(images=settings.max_images, side=model.preprocess.crop)

    def check(model_name: str, model_version: str = version) -> None:
        if (model_name, model_version) != (name, version):
            known = f"this server has {name!r} of version {version!r}"
            message = f"There is no model {model_name!r} of version {model_version!r}: {known}."
            raise RequestError(404, "ModelNotFound", message)

    @router.get("/health/live", openapi_extra=OPEN)
    async def live() -> Live:
        """Say that the process answers."""
        return Live()

    @router.get("/health/ready", openapi_extra=OPEN)
    async def ready() -> Ready:
        """Say that the model is loaded: before that, nobody listens here."""
        return Ready()

    @router.get("", responses=read)
    @router.get("/", include_in_schema=False)
    async def server() -> ServerMetadata:
        """Say what server this is."""
        return ServerMetadata()

    @router.get("/models/{model_name}", responses=read)
    async def metadata(model_name: str) -> ModelMetadata:
        """Say what the model takes and gives."""
        check(model_name)
        return _metadata(model, name, version)

    @router.get("/models/{model_name}/versions/{model_version}", responses=read)
    async def version_metadata(model_name: str, model_version: str) -> ModelMetadata:
        """Say what a version of the model takes and gives."""
        check(model_name, model_version)
        return _metadata(model, name, version)

    @router.get("/models/{model_name}/ready", responses=read)
    async def model_ready(model_name: str) -> ModelReady:
        """Say that the model is ready."""
        check(model_name)
        return ModelReady(name=name)

    @router.get("/models/{model_name}/versions/{model_version}/ready", responses=read)
    async def version_ready(model_name: str, model_version: str) -> ModelReady:
        """Say that a version of the model is ready."""
        check(model_name, model_version)
        return ModelReady(name=name)

    async def answer(request: Request) -> Response:
        with metrics.stage("parse"):
            content, length = await request.body(), request.headers.get(tensors.JSON_LENGTH)
            # Off the event loop: a million numbers in JSON take their time.
            question = await asyncio.to_thread(tensors.read_request, content, length, expected)
        scores = await _scores(predictor, question)
        content, headers = tensors.write_answer(question, scores, model.labels, model=name, version=version)
        return Response(content, headers=headers)

    @router.post("/models/{model_name}/infer", openapi_extra=body, responses=asked)
    async def infer(model_name: str, request: Request) -> Response:
        """Classify images or tensors."""
        check(model_name)
        return await answer(request)

    @router.post("/models/{model_name}/versions/{model_version}/infer", openapi_extra=body, responses=asked)
    async def version_infer(model_name: str, model_version: str, request: Request) -> Response:
        """Classify images or tensors with a version of the model."""
        check(model_name, model_version)
        return await answer(request)

    return router


def _metadata(model: Model, name: str, version: str) -> ModelMetadata:
    side = model.preprocess.crop
    return ModelMetadata(
        name=name,
        versions=[version],
        inputs=[
            TensorMetadata(name=IMAGES, datatype="BYTES", shape=[-1]),
            TensorMetadata(name=TENSORS, datatype="FP32", shape=[-1, 3, side, side]),
        ],
        outputs=[
            TensorMetadata(name=SCORES, datatype="FP32", shape=[-1, len(model.labels)]),
            TensorMetadata(name=LABEL, datatype="BYTES", shape=[-1]),
        ],
    )


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
