"""Decodes requests and encodes answers of the Open Inference Protocol: tensors in JSON, and binary data behind it.

Sources: the protocol's inference_rest.md, version 2, and its extensions binary_tensor_data and classification.
"""

from __future__ import annotations

import binascii
import json
import re
import reprlib
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bloomery_model import Tensor
from bloomery_serving.answers import Answer
from bloomery_serving.api.errors import RequestError, invalid_request
from bloomery_serving.api.json_numbers import MAX_DEPTH, NumbersError, take_out_numbers
from bloomery_serving.api.schemas import InferRequest, InputTensor, RequestedOutput
from bloomery_serving.image_file import ImageFile

IMAGES, TENSORS = "image", "images"
"""The inputs: files of images as BYTES, or preprocessed tensors as FP32."""
OUTPUTS = SCORES, LABEL, UNKNOWN = "scores", "label", "unknown"
"""The outputs: the probability of each class, the likeliest class' name, and whether that class is too unlikely for an
answer; the name is empty then."""
ANSWERED_OUTPUTS = SCORES, LABEL
"""The outputs of a service that answers whatever the probability."""

JSON_LENGTH = "inference-header-content-length"
"""Header with the length of the JSON, behind which binary data begin."""

_DIGITS = re.compile(r"[0-9]{1,18}")
_LENGTH = struct.Struct("<I")
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's name of the gzip format."""
_SPARE_MARKS = 20_000
"""Commas, and as many lists and objects, that a request may have beside those of a tensor's numbers."""

_Buffer = bytes | bytearray


@dataclass(frozen=True)
class RequestLimits:
    """The largest request: its images, the pixels of a tensor's side, its bytes once they are unpacked, its outputs."""

    images: int
    side: int
    bytes: int
    outputs: tuple[str, ...] = ANSWERED_OUTPUTS

    @property
    def numbers(self) -> int:
        """The numbers of all images together."""
        return self.images * 3 * self.side**2

    @property
    def lists(self) -> int:
        """The lists of these numbers, if they are nested: a list for each row, channel and image."""
        return 1 + self.images * (1 + 3 * (1 + self.side))


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

    outputs: Sequence[Output]
    files: Sequence[ImageFile] = ()
    tensors: Sequence[Tensor] = ()
    id: str | None = None


def unpacked_size(body: _Buffer, limits: RequestLimits) -> int:
    """Return the size that a body in gzip says that it has unpacked; nothing is unpacked for it.

    Raises:
        RequestError: it is no gzip, or too large.
    """
    # RFC 1952: the last four bytes, modulo 2^32.
    size = int.from_bytes(body[-4:], "little")
    if len(body) < 18 or not body.startswith(b"\x1f\x8b"):
        raise _bad_gzip()
    if size > limits.bytes:
        raise RequestError(413, "BodyTooLarge", f"A request may have {limits.bytes} bytes at most, unpacked.")
    return size


def unpack(body: _Buffer, size: int) -> bytes:
    """Unpack a body in gzip of a known size; a bomb gets no more room than it announced.

    Raises:
        RequestError: it is damaged, or of another size.
    """
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    try:
        unpacked = decompressor.decompress(body, size + 1)
    except zlib.error as error:
        raise _bad_gzip() from error
    if len(unpacked) != size or not decompressor.eof or decompressor.unused_data:
        raise _bad_gzip()
    return unpacked


def decode_request(body: _Buffer, json_length: str | None, limits: RequestLimits) -> InferenceRequest:
    """Decode a request's body.

    Args:
        body: the whole of it.
        json_length: the header JSON_LENGTH; None if the whole body is JSON, 0 if it is one image.
        limits: of the request.

    Raises:
        RequestError: a part of it is invalid; names it, and the right form.
    """
    if json_length == "0":
        return InferenceRequest(files=(_file(0, bytes(body)),), outputs=tuple(map(Output, limits.outputs)))
    if json_length is not None and not (_DIGITS.fullmatch(json_length) and int(json_length) <= len(body)):
        message = f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes."
        raise RequestError(400, "BadLength", message)
    end = len(body) if json_length is None else int(json_length)
    request, numbers = _parse(body if end == len(body) else body[:end], limits)
    if len(request.inputs) != 1:
        raise _bad_input(f"Send one input, '{IMAGES}' or '{TENSORS}'; there are {len(request.inputs)}.")
    tensor = request.inputs[0]
    binary = _binary_part(tensor, memoryview(body)[end:])
    outputs = tuple(_outputs(request, limits.outputs))
    if (tensor.name, tensor.datatype) == (IMAGES, "BYTES"):
        return InferenceRequest(files=_files(tensor, binary, limits), outputs=outputs, id=request.id)
    if (tensor.name, tensor.datatype) == (TENSORS, "FP32"):
        array = _array(tensor, binary, numbers)
        return InferenceRequest(tensors=_tensors(tensor, array, limits), outputs=outputs, id=request.id)
    known = f"send '{IMAGES}' as BYTES or '{TENSORS}' as FP32"
    raise _bad_input(f"There is no input {_quoted(tensor.name)} of {_quoted(tensor.datatype)}: {known}.")


def encode_answer(
    request: InferenceRequest, answers: Sequence[Answer], labels: Sequence[str], *, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """Return the answer's body and its headers."""
    described, binary = [], []
    for output in request.outputs:
        datatype, array = _output(output, answers, labels)
        entry: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": list(array.shape)}
        if output.binary:
            binary.append(_binary(array))
            described.append(entry | {"parameters": {"binary_data_size": len(binary[-1])}})
        else:
            described.append(entry | {"data": array.ravel().tolist()})
    answer = {"model_name": model, "model_version": version, "outputs": described}
    document = answer | ({"id": request.id} if request.id is not None else {})
    head = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    if not binary:
        return head, {"content-type": "application/json"}
    return head + b"".join(binary), {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}


def _parse(head: _Buffer, limits: RequestLimits) -> tuple[InferRequest, Mapping[str, NDArray[np.float32]]]:
    """Return the request in a JSON, and the numbers of tensors by the names that stand in their place."""
    # Before anything is parsed: each list takes thirty times its room in the body.
    if _has_more(head, commas=limits.numbers, lists=limits.lists):
        message = f"The request has more than the {limits.numbers} numbers of {limits.images} images; send several."
        raise RequestError(413, "TooManyNumbers", message)
    try:
        shortened = take_out_numbers(head)
    except NumbersError as error:
        raise RequestError(400, "BadData", f"The data of '{TENSORS}' {error}.") from error
    if _has_more(shortened.text):
        message = f"The request has more than {_SPARE_MARKS} commas and brackets beside those of a tensor's numbers."
        raise RequestError(413, "TooManyNumbers", message)
    try:
        return InferRequest.model_validate_json(shortened.text), shortened.arrays
    except ValidationError as error:
        raise invalid_request(error.errors(include_input=False)) from error


def _has_more(text: _Buffer, *, commas: int = 0, lists: int = 0) -> bool:
    """Return whether a JSON has more commas, or more lists and objects, than these and some to spare."""
    return text.count(b",") > commas + _SPARE_MARKS or text.count(b"[") + text.count(b"{") > lists + _SPARE_MARKS


def _binary_part(tensor: InputTensor, rest: memoryview) -> memoryview | None:
    """Return an input's binary data; None if its data are in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise _bad_input(f"The input {_quoted(tensor.name)} has neither data nor the parameter binary_data_size.")
        if rest:
            raise _bad_input(f"{len(rest)} bytes follow the JSON, but no input has the parameter binary_data_size.")
        return None
    if tensor.data is not None:
        raise _bad_input(f"The input {_quoted(tensor.name)} has data and binary_data_size; give one of them.")
    if size != len(rest):
        raise _bad_input(
            f"binary_data_size of {_quoted(tensor.name)} is {_quoted(size)}, but {len(rest)} bytes follow the JSON."
        )
    return rest


def _outputs(request: InferRequest, names: Sequence[str]) -> Iterator[Output]:
    all_binary = _flag(request.parameters, "binary_data_output", default=False)
    for requested in request.outputs or [RequestedOutput(name=name) for name in names]:
        if requested.name not in names:
            known = " and ".join(f"'{name}'" for name in names)
            message = f"There is no output {_quoted(requested.name)}: there are {known}."
            raise RequestError(400, "BadOutput", message)
        if [output.name for output in request.outputs].count(requested.name) > 1:
            raise RequestError(
                400, "BadOutput", f"The output '{requested.name}' is requested twice; request each once."
            )
        top_k = requested.parameters.get("classification") or 0
        if not isinstance(top_k, int) or top_k < 0 or (top_k and requested.name != SCORES):
            message = (
                f"classification is {_quoted(top_k)} at '{requested.name}'; it is a number of classes, at '{SCORES}'."
            )
            raise RequestError(400, "BadOutput", message)
        yield Output(requested.name, _flag(requested.parameters, "binary_data", default=all_binary), top_k)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(400, "BadParameter", f"The parameter {name} is {_quoted(value)}; it must be true or false.")
    return value


def _files(tensor: InputTensor, binary: memoryview | None, limits: RequestLimits) -> list[ImageFile]:
    if binary is None:
        contents = [_from_base64(text, number) for number, text in enumerate(_flat(tensor.data or []))]
    else:
        # Millions of empty elements fit into a small body: those beyond the limit are not even listed.
        contents = list(islice(_elements(binary), limits.images + 1))
    _require_count(len(contents), limits)
    if tensor.shape not in ([len(contents)], [len(contents), 1]):
        message = f"The shape of '{IMAGES}' is {tensor.shape}, but it has {len(contents)} images."
        raise RequestError(400, "BadShape", message)
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


def _array(
    tensor: InputTensor, binary: memoryview | None, numbers: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return the data of a tensor of numbers, flat."""
    try:
        if binary is not None:
            return np.frombuffer(binary, "<f4")
        match tensor.data:
            case [str(name)] if name in numbers:
                return numbers[name]
        return np.asarray(list(_flat(tensor.data or [])), "<f4")
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_numbers(tensor) from error


def _tensors(tensor: InputTensor, array: NDArray[np.float32], limits: RequestLimits) -> list[Tensor]:
    side = limits.side
    if len(tensor.shape) != 4 or tensor.shape[1:] != [3, side, side]:
        message = f"The shape of '{TENSORS}' is {tensor.shape}; it must be [N, 3, {side}, {side}]."
        raise RequestError(400, "BadShape", message)
    _require_count(tensor.shape[0], limits)
    try:
        shaped = array.reshape(tensor.shape)
    except ValueError as error:
        raise _no_numbers(tensor) from error
    if not np.isfinite(shaped).all():
        raise RequestError(400, "BadData", f"The data of '{TENSORS}' have a NaN or an infinity among them.")
    return list(shaped)


def _no_numbers(tensor: InputTensor) -> RequestError:
    return RequestError(400, "BadData", f"The data of '{TENSORS}' are not the numbers of a tensor {tensor.shape}.")


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
        return binascii.a2b_base64(str(text), strict_mode=True)
    except ValueError as error:  # also for text that is not ASCII; binascii.Error is one
        raise RequestError(400, "NotBase64", f"Image {number} of '{IMAGES}' is not base64.") from error


def _flat(data: Sequence[Any], depth: int = 1) -> Iterator[Any]:
    """Yield the elements of a list that may be nested, as the protocol allows."""
    if depth > MAX_DEPTH:
        raise RequestError(400, "BadData", f"The data are lists in more than {MAX_DEPTH} lists.")
    for element in data:
        if isinstance(element, list):
            yield from _flat(element, depth + 1)
        else:
            yield element


def _output(output: Output, answers: Sequence[Answer], labels: Sequence[str]) -> tuple[str, NDArray[Any]]:
    """Return an output's datatype and tensor."""
    if output.name == LABEL:
        return "BYTES", np.asarray([answer.label or "" for answer in answers], object)
    if output.name == UNKNOWN:
        return "BOOL", np.asarray([answer.label is None for answer in answers])
    scores = np.stack([answer.scores for answer in answers])
    if output.top_k:
        order = np.argsort(-scores, axis=1, kind="stable")[:, : output.top_k]
        named = [[f"{scores[row, i]:f}:{i}:{labels[i]}" for i in best] for row, best in enumerate(order)]
        return "BYTES", np.asarray(named, object)
    return "FP32", scores


def _binary(array: NDArray[Any]) -> bytes:
    """Return an array of texts, truth values or numbers in the form of the protocol's binary data."""
    if array.dtype == object:
        encoded = [text.encode() for text in array.ravel()]
        return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
    return array.tobytes() if array.dtype == bool else array.astype("<f4").tobytes()


def _bad_input(message: str) -> RequestError:
    return RequestError(400, "BadInput", message)


def _bad_gzip() -> RequestError:
    return RequestError(400, "BadGzip", "The body is not one whole gzip file, as its content-encoding says.")


def _quoted(value: object) -> str:
    """Return a value of the request for a message; a megabyte of it would help nobody."""
    return reprlib.repr(value)
