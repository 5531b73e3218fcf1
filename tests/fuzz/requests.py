"""Random requests to a model server, as the bytes on the connection: heads, forms, and the Open Inference Protocol."""

from __future__ import annotations

import base64
import copy
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz.images import any_image, good_image, hurt

INFER = "/v2/models/colours/infer"
METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "CONNECT", "PRI", "get", "", "P OST", "\x00", "X" * 5000)
TARGETS = (
    "/", "/predict", "/predict/", INFER, "/v2", "/v2/", "/v2/health/ready", "/v2/models/%00", "/v2/models/..%2f/infer",
    "/v2/models/colours/versions/%ff", "/docs", "/upload", "/openapi.json", "/metrics", "//predict", "/../predict", "*",
    "http://other/predict", "/predict?x=%zz", "/é", "/\x01", "/" + "a" * 70_000, "", "predict",
)  # fmt: skip
HEADERS = (
    "Content-Length: 5", "Content-Length: -1", "Content-Length: +5", "Content-Length: 99999999999999999999",
    "Content-Length: 0x5", "Content-Length: 5, 5", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: x", "Expect: 100-continue", "Expect: x", "Connection: close", "Connection: Upgrade",
    "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "Upgrade: h2c",
    "Content-Encoding: gzip", "Content-Encoding: br, gzip", "Content-Type: \xff", "Content-Type: multipart/form-data",
    "Authorization: \xff\xfe", "Authorization: Bearer", "Authorization: " + "x" * 9000, "X-Variant: \x01", "Host: ",
    "Host: a, b", "Host : a", " folded", ": empty", "NoColon", "X: " + "y" * 70_000, "Range: bytes=0-", "Cookie: \x00",
    "Inference-Header-Content-Length: 9999", "Accept-Encoding: zstd;q=x", "X-Forwarded-Proto: gopher",
)  # fmt: skip
OPENINGS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n\r\n",
    b"",
    b"\x00" * 99,
)
DISPOSITIONS = (
    'form-data; name="image"; filename="a.png"', 'form-data; name="image"', 'form-data; name="other"; filename="a.png"',
    'form-data; name=image; filename=a.png', 'form-data; name="image"; filename="a\\"b.png"', "form-data", "", "x",
    "form-data; name=\"image\"; filename*=UTF-8''%e5%87%89.png", "form-data; name=\"image\"; filename*=x''%ff",
    "attachment", 'form-data; name="image"; filename="\xff\xfe"', 'form-data; name="image"; filename="\x00"',
    "form-data; " + "a=b; " * 2000, 'form-data; name="image"; filename="' + "x" * 9000 + '"',
    'form-data; name="image"; filename="凉皮.png"',
)  # fmt: skip
FORM_TYPES = ("multipart/form-data", "multipart/form-data; charset=x; boundary=b", "multipart/mixed; boundary=b")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 10, 11, 2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), "", "x", "é", "\ud800",
    "\x00", [], {}, [[]], [None], {"a": 1}, "aGVsbG8=", "%%%",
)  # fmt: skip


def mostly(chance: random.Random, plain: Any, odd: Sequence[Any]) -> Any:
    """Return the plain value four times of five: a request with too many oddities is refused for the first of them."""
    return plain if chance.random() < 0.8 else chance.choice(odd)


def head(chance: random.Random) -> bytes:
    """Return a request with an odd head, or bytes that are none."""
    if chance.random() < 0.1:
        return chance.choice((*OPENINGS, chance.randbytes(chance.randint(1, 5000))))
    version = mostly(chance, "HTTP/1.1", ("HTTP/1.0", "HTTP/9.9", "HTTP/2", "", "http/1.1"))
    end = mostly(chance, "\r\n", ("\n", "\r"))
    headers = chance.choices(HEADERS, k=mostly(chance, chance.choice((0, 1)), (2, 5, 300)))
    method = mostly(chance, chance.choice(("GET", "POST")), METHODS)
    lines = [f"{method} {chance.choice(TARGETS)} {version}", "Host: model", *headers]
    body = mostly(
        chance, b"", (b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"0\r\nX: y\r\n\r\n")
    )
    data = (end.join(lines) + 2 * end).encode("utf-8") + body
    return hurt(data, chance) if chance.random() < 0.2 else data


def form(chance: random.Random) -> bytes:
    """Return a request with a form of files."""
    boundary = mostly(chance, "b", ("-" * 70, "a b", "x" * 300, "é", ""))
    parts = [_part(chance, boundary) for _ in range(mostly(chance, chance.choice((1, 2, 10)), (0, 11, 12, 150)))]
    preamble, end = mostly(chance, "", ("words\r\n", "\r\n")), mostly(chance, f"--{boundary}--\r\n", ("", "--"))
    body = preamble.encode() + b"".join(parts) + end.encode()
    plain_type = f"multipart/form-data; boundary={boundary}"
    kind = mostly(chance, plain_type, (f'multipart/form-data; boundary="{boundary}"', *FORM_TYPES))
    body = hurt(body, chance) if chance.random() < 0.2 else body
    return _request(chance.choice(("/predict", "/")), body, f"Content-Type: {kind}")


def _part(chance: random.Random, boundary: str) -> bytes:
    kind = mostly(chance, "image/png", ("text/plain; charset=x", "multipart/mixed; boundary=c", "é", "", "x" * 9000))
    odd_headers = ("Content-Transfer-Encoding: base64", "X: " + "y" * 9000, "NoColon", ": empty", "X: \x00")
    lines = [
        f"--{boundary}",
        f"Content-Disposition: {mostly(chance, DISPOSITIONS[0], DISPOSITIONS)}",
        f"Content-Type: {kind}",
        *([chance.choice(odd_headers)] if chance.random() < 0.1 else []),
    ]
    content = any_image(chance)[1] if chance.random() < 0.5 else good_image(0)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def image(chance: random.Random) -> bytes:
    """Return a request whose body is an image."""
    kind = chance.choice(("image/png", "image/jpeg", "application/octet-stream", "text/plain", "application/json", ""))
    return _request("/predict", any_image(chance)[1], f"Content-Type: {kind}")


def inference(chance: random.Random) -> bytes:
    """Return a request of the Open Inference Protocol, with odd values anywhere."""
    if chance.random() < 0.05:
        deep = chance.choice((100, 100_000))
        return _request(INFER, b'{"inputs": ' + b"[" * deep + b"]" * deep + b"}")
    document, tail = _document(chance)
    for _ in range(mostly(chance, chance.choice((0, 1)), (2, 4))):
        _replace_somewhere(document, chance)
    body = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    tail = mostly(chance, tail, (b"", chance.randbytes(30), b"\x02\0\0\0ab" * 3))
    length = mostly(chance, str(len(body)), ("0", "-1", "x", "٣", str(2**64)))
    headers = [f"Inference-Header-Content-Length: {length}"] if tail or chance.random() < 0.1 else []
    path = mostly(chance, INFER, ("/v2/models/colours/versions/4/infer", "/v2/models/x/infer"))
    return _request(path, (hurt(body, chance) if chance.random() < 0.1 else body) + tail, *headers)


def _document(chance: random.Random) -> tuple[dict[str, Any], bytes]:
    """Return a request's JSON, and the binary data behind it."""
    count, tail = mostly(chance, chance.choice((1, 2)), (0, 11)), b""
    entry: dict[str, Any]
    if chance.random() < 0.5:
        files = [mostly(chance, good_image(0), (any_image(chance)[1],)) for _ in range(count)]
        entry = {"name": "image", "datatype": "BYTES", "shape": [count]}
        entry["data"] = [base64.b64encode(file).decode() for file in files]
        tail = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    else:
        numbers = [mostly(chance, 0.5, (0, 1e30, -1e38)) for _ in range(3 * 32 * 32)]
        entry = {"name": "images", "datatype": "FP32", "shape": [count, 3, 32, 32], "data": [numbers] * count}
        tail = struct.pack(f"<{len(numbers) * count}f", *numbers * count)
    if chance.random() < 0.4:
        del entry["data"]
        entry["parameters"] = {"binary_data_size": mostly(chance, len(tail), (0, 30, -1, "x"))}
    else:
        tail = b""
    outputs = [{"name": "scores", "parameters": {"classification": chance.choice((0, 2, 99))}}, {"name": "label"}]
    more = chance.choice(({}, {"id": "7"}, {"outputs": outputs}, {"parameters": {"binary_data_output": True}}))
    return {"inputs": [entry], **more}, tail


def _replace_somewhere(value: dict[str, Any] | list[Any], chance: random.Random) -> None:
    """Replace a value of a document, at any depth; a list of numbers counts as one place."""
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(min(len(value), 3))
    if not keys:
        return
    key = chance.choice(keys)
    inner = value[key]
    if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
        _replace_somewhere(inner, chance)
    else:
        value[key] = copy.deepcopy(chance.choice(VALUES))


def _request(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: model", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8") + body


REQUESTS: dict[str, Callable[[random.Random], bytes]] = {
    "heads": head,
    "forms": form,
    "bodies": image,
    "inferences": inference,
}
