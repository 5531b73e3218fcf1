"""The Open Inference Protocol v2 over REST: health, metadata and infer.

Images go in as BYTES ("image": files, base64 in JSON), or as preprocessed FP32 tensors ("images", [N, 3, H, W]).
Source: the protocol's open_inference_rest.yaml, version 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from bloomery_model import ImageError
from bloomery_model.folder import PREPROCESS
from bloomery_serving.about import About
from bloomery_serving.answers import Answerer
from bloomery_serving.api import open_inference_codec as codec
from bloomery_serving.api.capture import ID_HEADER, id_header, uploads_of
from bloomery_serving.api.errors import RequestError, image_request_error, not_finite_error
from bloomery_serving.api.open_inference_codec import (
    IMAGES,
    LABEL,
    SCORES,
    TENSORS,
    UNKNOWN,
    InferenceRequest,
    RequestLimits,
)
from bloomery_serving.api.openapi import BYTES, OPEN, infer_body, refusals
from bloomery_serving.api.schemas import (
    InferAnswer,
    Live,
    ModelMetadata,
    ModelReady,
    ProtocolRefusal,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from bloomery_serving.batcher import Batcher, NotFinite
from bloomery_serving.capture.recorder import Upload
from bloomery_serving.jobs import CallRunner
from bloomery_serving.metrics import Metrics
from bloomery_serving.model import Model, ScoredImage
from bloomery_serving.request_scope import key_name, reserve_bytes

_MISTAKES = (
    "The body is no request of the protocol, an input or output is not one of the model's, its data do not fit its "
    "shape, there are none or too many images, or one of them cannot be read."
)
_ASSUMED = f"assumed: the model folder has no {PREPROCESS}, so that ImageNet's preprocessing is applied"
_EXAMPLE = {
    "inputs": [{"name": IMAGES, "datatype": "BYTES", "shape": [1], "data": ["<base64 of an image>"]}],
    "outputs": [{"name": SCORES}, {"name": LABEL}],
}


@dataclass(frozen=True)
class _Served:
    """The one model of this server, under the name and version that the protocol knows it by."""

    name: str
    about: About
    model: Model
    batcher: Batcher
    answerer: Answerer
    parser: CallRunner
    metrics: Metrics
    limits: RequestLimits

    @property
    def version(self) -> str:
        """The version in the registry; a model may be registered while it is served, and 1 stands for none."""
        return self.about.identity.model_version or "1"

    def require(self, name: str, version: str | None = None) -> None:
        """Refuse another model's name or version."""
        if (name, version or self.version) != (self.name, self.version):
            known = f"this server has {self.name!r} of version {self.version!r}"
            message = f"There is no model {name!r} of version {version or self.version!r}: {known}."
            raise RequestError(404, "ModelNotFound", message)

    def report_health(self, response: Response) -> bool:
        """Return whether predictions succeed; set the answer's status, which is all that probes see, accordingly."""
        is_healthy = self.batcher.is_healthy
        response.status_code = 200 if is_healthy else 503
        return is_healthy

    @property
    def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs."""
        side = self.model.preprocess.crop
        forms = {
            SCORES: TensorMetadata(name=SCORES, datatype="FP32", shape=[-1, len(self.model.labels)]),
            LABEL: TensorMetadata(name=LABEL, datatype="BYTES", shape=[-1]),
            UNKNOWN: TensorMetadata(name=UNKNOWN, datatype="BOOL", shape=[-1]),
        }
        return ModelMetadata(
            name=self.name,
            versions=[self.version],
            platform=f"onnx_{self.model.engine.form.name.lower()}",
            inputs=[
                TensorMetadata(name=IMAGES, datatype="BYTES", shape=[-1]),
                TensorMetadata(name=TENSORS, datatype="FP32", shape=[-1, 3, side, side]),
            ],
            outputs=[forms[name] for name in self.limits.outputs],
            parameters={
                "preprocess": self.model.preprocess.document(),
                "preprocess_source": _ASSUMED if self.model.assumes_imagenet else PREPROCESS,
                "engine": self.model.engine.document(),
            },
        )

    async def infer(self, request: Request) -> Response:
        """Answer a request to infer."""
        client = key_name(request.scope)
        with self.metrics.stage("parse"):
            decoded = await self._decode(request, client)
        # Tensors are nobody's files: they are neither captured nor compared.
        uploads: Sequence[Upload | None] = uploads_of(request, client, decoded.files) or [None] * len(decoded.tensors)
        scores = await _score(self.batcher, client, decoded)
        answers = [self.answerer.answer(scored, upload) for scored, upload in zip(scores, uploads, strict=True)]
        content, headers = codec.encode_answer(
            decoded, answers, self.model.labels, model=self.name, version=self.version
        )
        return Response(content, headers=headers | id_header([answer.id for answer in answers]))

    async def _decode(self, request: Request, client: str) -> InferenceRequest:
        """Read and decode a request; its body is forgotten as soon as it is decoded."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
        decode = partial(_decode_body, request.headers.get(codec.JSON_LENGTH), self.limits)
        if request.headers.get("content-encoding", "").lower() == "gzip":
            size = codec.unpacked_size(body, self.limits)
            reserve_bytes(request.scope, size)
            decode = partial(decode, unpacked_size=size)
        # Off the event loop: a million numbers in JSON take their time.
        return await self.parser.run(client, partial(decode, body))


def _decode_body(
    json_length: str | None, limits: RequestLimits, body: bytearray, *, unpacked_size: int | None = None
) -> InferenceRequest:
    whole = body if unpacked_size is None else codec.unpack(body, unpacked_size)
    return codec.decode_request(whole, json_length, limits)


def build_router(
    batcher: Batcher,
    answerer: Answerer,
    parser: CallRunner,
    model: Model,
    metrics: Metrics,
    *,
    name: str,
    about: About,
    limits: RequestLimits,
) -> APIRouter:
    """Return the protocol's routes for the one model of this server, which has a name and a version in them."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    served = _Served(name, about, model, batcher, answerer, parser, metrics, limits)
    _add_health(router, served)
    _add_metadata(router, served)
    _add_infer(router, served)
    return router


def _add_health(router: APIRouter, served: _Served) -> None:
    @router.get("/health/live", openapi_extra=OPEN, responses=_unhealthy(Live))
    async def live(response: Response) -> Live:
        """Return whether the server can go on."""
        return Live(live=served.report_health(response))

    @router.get("/health/ready", openapi_extra=OPEN, responses=_unhealthy(Ready))
    async def ready(response: Response) -> Ready:
        """Return whether the server can predict: before the model is loaded, nobody listens here."""
        return Ready(ready=served.report_health(response))

    responses = refusals(ProtocolRefusal, posted=False) | _unhealthy(ModelReady)

    @router.get("/models/{model_name}/ready", responses=responses)
    async def model_ready(model_name: str, response: Response) -> ModelReady:
        """Return whether the model is ready."""
        served.require(model_name)
        return ModelReady(name=served.name, ready=served.report_health(response))

    @router.get("/models/{model_name}/versions/{model_version}/ready", responses=responses)
    async def version_ready(model_name: str, model_version: str, response: Response) -> ModelReady:
        """Return whether a version of the model is ready."""
        served.require(model_name, model_version)
        return ModelReady(name=served.name, ready=served.report_health(response))


def _add_metadata(router: APIRouter, served: _Served) -> None:
    responses = refusals(ProtocolRefusal, posted=False)

    @router.get("", responses=responses)
    @router.get("/", include_in_schema=False)
    async def server() -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return ServerMetadata()

    @router.get("/models/{model_name}", responses=responses)
    async def metadata(model_name: str) -> ModelMetadata:
        """Return the model's inputs and outputs."""
        served.require(model_name)
        return served.metadata

    @router.get("/models/{model_name}/versions/{model_version}", responses=responses)
    async def version_metadata(model_name: str, model_version: str) -> ModelMetadata:
        """Return the inputs and outputs of a version of the model."""
        served.require(model_name, model_version)
        return served.metadata


def _add_infer(router: APIRouter, served: _Served) -> None:
    binary = {"application/octet-stream": {"schema": BYTES}}
    too_large = {"model": ProtocolRefusal, "description": "The model gives NaN or an infinity for a tensor."}
    responses = {200: {"model": InferAnswer, "content": binary, "headers": ID_HEADER}, 422: too_large} | refusals(
        ProtocolRefusal, _MISTAKES
    )
    body = infer_body(_EXAMPLE)

    @router.post("/models/{model_name}/infer", openapi_extra=body, responses=responses)
    async def infer(model_name: str, request: Request) -> Response:
        """Classify images or tensors."""
        served.require(model_name)
        return await served.infer(request)

    @router.post("/models/{model_name}/versions/{model_version}/infer", openapi_extra=body, responses=responses)
    async def version_infer(model_name: str, model_version: str, request: Request) -> Response:
        """Classify images or tensors with a version of the model."""
        served.require(model_name, model_version)
        return await served.infer(request)


def _unhealthy(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {503: {"model": model, "description": "The last predictions all failed; a new start may help."}}


async def _score(batcher: Batcher, client: str, request: InferenceRequest) -> list[ScoredImage]:
    """Return the scores of each image or tensor of a request."""
    scored = []
    for number, result in enumerate(await batcher.submit(client, request.files or request.tensors)):
        # The protocol's answer is one tensor: it has no place for the error of one image of several.
        match result:
            case ImageError():
                raise image_request_error(request.files[number].name, result)
            case NotFinite():
                is_tensor = not request.files
                name = f"{'tensor' if is_tensor else 'image'} {number}"
                raise not_finite_error(name, is_tensor=is_tensor)
            case image:
                scored.append(image)
    return scored
