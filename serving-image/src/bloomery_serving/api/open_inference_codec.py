"""Decodes requests and encodes answers of the Open Inference Protocol: tensors in JSON, and binary data behind it.

Sources: the protocol's inference_rest.md, version 2, and its extensions binary_tensor_data and classification.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bloomery_model import Tensor
from bloomery_model.onnx_classifier import Scores
from bloomery_serving.api.errors import RequestError, invalid_request
from bloomery_serving.api.schemas import InferRequest, InputTensor, RequestedOutput
from bloomery_serving.image_file import ImageFile

IMAGES, TENSORS = "image", "images"
"""The inputs: files of images as BYTES, or preprocessed tensors as FP32."""
SCORES, LABEL = "scores", "label"
"""The outputs: the probability of each class, and the likeliest class' name."""

JSON_LENGTH = "inference-header-content-length"
"""Header with the length of the JSON, behind which binary data begin."""

_DIGITS = re.compile(r"[0-9]{1,18}")
_LENGTH = struct.Struct("<I")
_SPARE_COMMAS = 10_000
"""Commas that a request may have beside those between its numbers."""


@dataclass(frozen=True)
class RequestLimits:
    """The largest request: its images, and the pixels of a tensor's side."""

    images: int
    side: int


@dataclass(frozen=True)
class Output:
    """The form in which one output is sent."""

    name: str
    binary: bool = False
    top_k: int = 0
    """Number of the likeliest classes to name in its place; 0 sends the tensor itself."""


@dataclass(frozen=True)
class InferenceRequest:
    """A decoded request: files of images or tensors, never both."""

    files: Sequence[ImageFile] = ()
    tensors: Sequence[Tensor] = ()
    outputs: Sequence[Output] = (Output(SCORES), Output(LABEL))
    id: str | None = None


def decode_request(body: bytes, json_length: str | None, limits: RequestLimits) -> InferenceRequest:
    """Decode a request's body.

    Args:
        body: the whole of it.
        json_length: the header JSON_LENGTH; None if the whole body is JSON, 0 if it is one image.
        limits: of the request.

    Raises:
        RequestError: a part of it is invalid; names it, and the right form.
    """
    if json_length == "0":
        return InferenceRequest(files=(_file(0, body),))
    if json_length is not None and not (_DIGITS.fullmatch(json_length) and int(json_length) <= len(body)):
        message = f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes."
        raise RequestError(400, "BadLength", message)
    end = len(body) if json_length is None else int(json_length)
    request = _parse(body[:end], limits)
    if len(request.inputs) != 1:
        raise _bad_input(f"Send one input, '{IMAGES}' or '{TENSORS}'; there are {len(request.inputs)}.")
    tensor = request.inputs[0]
    binary = _binary_part(tensor, memoryview(body)[end:])
    outputs = tuple(_outputs(request))
    if (tensor.name, tensor.datatype) == (IMAGES, "BYTES"):
        return InferenceRequest(files=_files(tensor, binary, limits), outputs=outputs, id=request.id)
    if (tensor.name, tensor.datatype) == (TENSORS, "FP32"):
        return InferenceRequest(tensors=_tensors(tensor, binary, limits), outputs=outputs, id=request.id)
    known = f"send '{IMAGES}' as BYTES or '{TENSORS}' as FP32"
    raise _bad_input(f"There is no input {tensor.name!r} of {tensor.datatype}: {known}.")


def encode_answer(
    request: InferenceRequest, scores: Scores, labels: Sequence[str], *, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """Return the answer's body and its headers."""
    described, binary = [], []
    for output in request.outputs:
        datatype, array = _output(output, scores, labels)
        entry: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": list(array.shape)}
        if output.binary:
            binary.append(_binary(array))
            described.append(entry | {"parameters": {"binary_data_size": len(binary[-1])}})
        else:
            described.append(entry | {"data": array.ravel().tolist()})
    answer = {"model_name": model, "model_version": version, "outputs": described}
    head = json.dumps(answer | ({"id": request.id} if request.id is not None else {}), ensure_ascii=False).encode()
    if not binary:
        return head, {"content-type": "application/json"}
    return head + b"".join(binary), {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}


def _parse(head: bytes, limits: RequestLimits) -> InferRequest:
    numbers = limits.images * 3 * limits.side**2
    # Before they are parsed: each number takes sixteen times its room in the body.
    if head.count(b",") > numbers + _SPARE_COMMAS:
        message = f"The request has more than the {numbers} numbers of {limits.images} images; send several."
        raise RequestError(413, "TooManyNumbers", message)
    try:
        return InferRequest.model_validate_json(head)
    except ValidationError as error:
        raise invalid_request(error.errors()) from error


def _binary_part(tensor: InputTensor, rest: memoryview) -> memoryview | None:
    """Return an input's binary data; None if its data are in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise _bad_input(f"The input '{tensor.name}' has neither data nor the parameter binary_data_size.")
        if rest:
            raise _bad_input(f"{len(rest)} bytes follow the JSON, but no input has the parameter binary_data_size.")
        return None
    if tensor.data is not None:
        raise _bad_input(f"The input '{tensor.name}' has data and binary_data_size; give one of them.")
    if size != len(rest):
        raise _bad_input(f"binary_data_size of '{tensor.name}' is {size}, but {len(rest)} bytes follow the JSON.")
    return rest


def _outputs(request: InferRequest) -> Iterator[Output]:
    all_binary = _flag(request.parameters, "binary_data_output", default=False)
    for requested in request.outputs or [RequestedOutput(name=SCORES), RequestedOutput(name=LABEL)]:
        if requested.name not in (SCORES, LABEL):
            message = f"There is no output {requested.name!r}: there are '{SCORES}' and '{LABEL}'."
            raise RequestError(400, "BadOutput", message)
        if [output.name for output in request.outputs].count(requested.name) > 1:
            raise RequestError(
                400, "BadOutput", f"The output '{requested.name}' is requested twice; request each once."
            )
        top_k = requested.parameters.get("classification", 0)
        if not isinstance(top_k, int) or top_k < 0 or (top_k and requested.name != SCORES):
            message = f"classification is {top_k!r} at '{requested.name}'; it is a number of classes, at '{SCORES}'."
            raise RequestError(400, "BadOutput", message)
        yield Output(requested.name, _flag(requested.parameters, "binary_data", default=all_binary), top_k)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(400, "BadParameter", f"The parameter {name} is {value!r}; it must be true or false.")
    return value


def _files(tensor: InputTensor, binary: memoryview | None, limits: RequestLimits) -> list[ImageFile]:
    if binary is None:
        contents = [_from_base64(text, number) for number, text in enumerate(_flat(tensor.data or []))]
    else:
        contents = list(_elements(binary))
    if tensor.shape not in ([len(contents)], [len(contents), 1]):
        message = f"The shape of '{IMAGES}' is {tensor.shape}, but it has {len(contents)} images."
        raise RequestError(400, "BadShape", message)
    _require_count(len(contents), limits)
    return [_file(number, content) for number, content in enumerate(contents)]


def _elements(binary: memoryview) -> Iterator[bytes]:
    """Yield the elements of a binary tensor of BYTES, each of which follows its length."""
    while binary:
        size = _LENGTH.unpack_from(binary)[0] if len(binary) >= _LENGTH.size else len(binary)
        if _LENGTH.size + size > len(binary):
            message = f"The binary data of '{IMAGES}' end within an image: each is preceded by its length in 4 bytes."
            raise RequestError(400, "BadData", message)
        yield bytes(binary[_LENGTH.size : _LENGTH.size + size])
        binary = binary[_LENGTH.size + size :]


def _tensors(tensor: InputTensor, binary: memoryview | None, limits: RequestLimits) -> list[Tensor]:
    side = limits.side
    if len(tensor.shape) != 4 or tensor.shape[1:] != [3, side, side]:
        message = f"The shape of '{TENSORS}' is {tensor.shape}; it must be [N, 3, {side}, {side}]."
        raise RequestError(400, "BadShape", message)
    _require_count(tensor.shape[0], limits)
    try:
        flat = np.asarray(list(_flat(tensor.data or [])), "<f4") if binary is None else np.frombuffer(binary, "<f4")
        array = flat.reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"The data of '{TENSORS}' are not the numbers of a tensor {tensor.shape}."
        raise RequestError(400, "BadData", message) from error
    if not np.isfinite(array).all():
        raise RequestError(400, "BadData", f"The data of '{TENSORS}' have a NaN or an infinity among them.")
    return list(array)


def _require_count(count: int, limits: RequestLimits) -> None:
    if count == 0:
        raise RequestError(400, "NoImage", "The input is empty: send at least one image.")
    if count > limits.images:
        message = f"A request may have {limits.images} images at most, not {count}; send more in several."
        raise RequestError(400, "TooManyImages", message)


def _file(number: int, content: bytes) -> ImageFile:
    return ImageFile(f"image {number}", content)


def _from_base64(text: object, number: int) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError as error:  # also for text that is not ASCII; binascii.Error is one
        raise RequestError(400, "NotBase64", f"Image {number} of '{IMAGES}' is not base64.") from error


def _flat(data: Sequence[Any]) -> Iterator[Any]:
    """Yield the elements of a list that may be nested, as the protocol allows."""
    for element in data:
        if isinstance(element, list):
            yield from _flat(element)
        else:
            yield element


def _output(output: Output, scores: Scores, labels: Sequence[str]) -> tuple[str, NDArray[Any]]:
    """Return an output's datatype and tensor."""
    if output.top_k:
        order = np.argsort(-scores, axis=1, kind="stable")[:, : output.top_k]
        named = [[f"{scores[row, i]:f}:{i}:{labels[i]}" for i in best] for row, best in enumerate(order)]
        return "BYTES", np.asarray(named, object)
    if output.name == LABEL:
        return "BYTES", np.asarray([labels[i] for i in scores.argmax(axis=1)], object)
    return "FP32", scores


def _binary(array: NDArray[Any]) -> bytes:
    if array.dtype != object:
        return array.astype("<f4").tobytes()
    encoded = [text.encode() for text in array.ravel()]
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)


def _bad_input(message: str) -> RequestError:
    return RequestError(400, "BadInput", message)
