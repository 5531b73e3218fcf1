"""The Open Inference Protocol v2 over REST: health, metadata and infer.

Images go in as BYTES ("image", base64 in JSON), or as preprocessed FP32 tensors ("images", [N, 3, H, W]).
Source: the protocol's open_inference_rest.yaml, version 2.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from bloomery_serving import __version__
from bloomery_serving.errors import RequestError
from bloomery_serving.images import ImageFile, Tensor
from bloomery_serving.model import Model, Scores
from bloomery_serving.predictor import Failure, Predictor
from bloomery_serving.settings import Settings

BYTES_INPUT = "image"
TENSOR_INPUT = "images"


class InferInput(BaseModel):
    """One input tensor of a request."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferRequest(BaseModel):
    """A request to infer; parameters and requested outputs are accepted, all outputs are given."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    inputs: list[InferInput]


def build_router(predictor: Predictor, model: Model, settings: Settings) -> APIRouter:
    """Return the protocol's routes for the one model of this server."""
    router = APIRouter(prefix="/v2")
    name, version = settings.service_name, settings.model_version or "1"

    def check(model_name: str, model_version: str = version) -> None:
        if (model_name, model_version) != (name, version):
            known = f"this server has {name!r} of version {version!r}"
            message = f"There is no model {model_name!r} of version {model_version!r}: {known}."
            raise RequestError(404, "ModelNotFound", message)

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Say that the process answers."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """Say that the model is loaded: before that, nobody listens here."""
        return {"ready": True}

    @router.get("")
    async def server() -> dict[str, Any]:
        """Say what server this is."""
        return {"name": "bloomery", "version": __version__, "extensions": []}

    @router.get("/models/{model_name}")
    async def metadata(model_name: str) -> dict[str, Any]:
        """Say what the model takes and gives."""
        check(model_name)
        return _metadata(model, name, version)

    @router.get("/models/{model_name}/versions/{model_version}")
    async def version_metadata(model_name: str, model_version: str) -> dict[str, Any]:
        """Say what a version of the model takes and gives."""
        check(model_name, model_version)
        return _metadata(model, name, version)

    @router.get("/models/{model_name}/ready")
    async def model_ready(model_name: str) -> dict[str, Any]:
        """Say that the model is ready."""
        check(model_name)
        return {"name": name, "ready": True}

    @router.get("/models/{model_name}/versions/{model_version}/ready")
    async def version_ready(model_name: str, model_version: str) -> dict[str, Any]:
        """Say that a version of the model is ready."""
        check(model_name, model_version)
        return {"name": name, "ready": True}

    @router.post("/models/{model_name}/infer")
    async def infer(model_name: str, request: InferRequest) -> dict[str, Any]:
        """Classify images or tensors."""
        check(model_name)
        return await _infer(predictor, model, request, name, version)

    @router.post("/models/{model_name}/versions/{model_version}/infer")
    async def version_infer(model_name: str, model_version: str, request: InferRequest) -> dict[str, Any]:
        """Classify images or tensors with a version of the model."""
        check(model_name, model_version)
        return await _infer(predictor, model, request, name, version)

    return router


def _metadata(model: Model, name: str, version: str) -> dict[str, Any]:
    side = model.preprocess.crop
    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxruntime",
        "inputs": [
            {"name": BYTES_INPUT, "datatype": "BYTES", "shape": [-1]},
            {"name": TENSOR_INPUT, "datatype": "FP32", "shape": [-1, 3, side, side]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, len(model.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }


async def _infer(predictor: Predictor, model: Model, request: InferRequest, name: str, version: str) -> dict[str, Any]:
    if len(request.inputs) != 1:
        message = f"Send one input, '{BYTES_INPUT}' or '{TENSOR_INPUT}'; there are {len(request.inputs)}."
        raise RequestError(400, "BadInput", message)
    given = request.inputs[0]
    if (given.name, given.datatype) == (BYTES_INPUT, "BYTES"):
        scores = await _scores_of_images(predictor, model, given)
    elif (given.name, given.datatype) == (TENSOR_INPUT, "FP32"):
        scores = await predictor.score(_tensors(given, model.preprocess.crop))
    else:
        message = (
            f"There is no input {given.name!r} of {given.datatype}: send '{BYTES_INPUT}' as BYTES "
            f"or '{TENSOR_INPUT}' as FP32."
        )
        raise RequestError(400, "BadInput", message)
    labels = [model.labels[index] for index in scores.argmax(axis=1)]
    outputs = [
        {"name": "scores", "datatype": "FP32", "shape": list(scores.shape), "data": scores.ravel().tolist()},
        {"name": "label", "datatype": "BYTES", "shape": [len(labels)], "data": labels},
    ]
    answer = {"model_name": name, "model_version": version, "outputs": outputs}
    return answer | ({"id": request.id} if request.id is not None else {})


async def _scores_of_images(predictor: Predictor, model: Model, given: InferInput) -> Scores:
    flat = list(_flat(given.data))
    if given.shape not in ([len(flat)], [len(flat), 1]):
        raise RequestError(
            400, "BadShape", f"The shape of '{BYTES_INPUT}' is {given.shape}, but it has {len(flat)} images."
        )
    files = [ImageFile(f"image {number}", _from_base64(text, number)) for number, text in enumerate(flat)]
    if not files:
        raise RequestError(400, "NoImage", f"The input '{BYTES_INPUT}' is empty.")
    outcomes = await predictor.classify(files)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
    rows = [[o.scores[label] for label in model.labels] for o in outcomes if not isinstance(o, Failure)]
    return np.asarray(rows, np.float32)


def _from_base64(text: object, number: int) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError as error:  # also what is no ASCII; binascii.Error is one
        raise RequestError(400, "NotBase64", f"Image {number} of '{BYTES_INPUT}' is not base64.") from error


def _tensors(given: InferInput, side: int) -> list[Tensor]:
    wanted = f"[N, 3, {side}, {side}]"
    if len(given.shape) != 4 or given.shape[1:] != [3, side, side] or given.shape[0] < 1:
        raise RequestError(400, "BadShape", f"The shape of '{TENSOR_INPUT}' is {given.shape}; it must be {wanted}.")
    try:
        array = np.asarray(list(_flat(given.data)), np.float32).reshape(given.shape)
    except (ValueError, TypeError) as error:
        message = f"The data of '{TENSOR_INPUT}' are not the numbers of a tensor {given.shape}."
        raise RequestError(400, "BadData", message) from error
    if not np.isfinite(array).all():
        raise RequestError(400, "BadData", f"The data of '{TENSOR_INPUT}' have a NaN or an infinity among them.")
    return list(array)


def _flat(data: list[Any]) -> Any:
    """Yield the elements of a list that may be nested, as the protocol allows."""
    for element in data:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element
