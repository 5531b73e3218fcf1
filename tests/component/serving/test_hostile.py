"""Hostile or odd input gets a sentence, never a crash, and harms no other request."""

from __future__ import annotations

import hashlib
import json
import struct
import time
import zlib
from io import BytesIO

import pytest
from PIL import Image

pytestmark = pytest.mark.feature("S3")

SIDE = 32


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header names this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [5_001, 10_000, 20_000])
def test_image_that_claims_too_many_pixels_is_refused(server, side):
    answer = server.client.post("/predict", files=[("image", ("big.png", png_that_claims(side, side)))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "ImageTooLarge")
    assert "big.png" in answer.json()["error"]["message"]


def test_very_narrow_image_is_refused_before_resizing(server):
    buffer = BytesIO()
    Image.new("RGB", (1, 65_000)).save(buffer, "JPEG")
    start = time.monotonic()
    answer = server.client.post("/predict", files=[("image", ("thread.jpg", buffer.getvalue()))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ImageTooNarrow")
    assert "thread.jpg" in answer.json()["error"]["message"]
    assert time.monotonic() - start < 2


def test_panorama_is_still_read(server):
    buffer = BytesIO()
    Image.new("RGB", (3_000, 40), (200, 20, 20)).save(buffer, "PNG")
    assert server.client.post("/predict", content=buffer.getvalue()).json()["label"] == "red"


def test_entry_that_is_no_digest_is_left_out(start_server, tmp_path):
    (tmp_path / "good").write_text(hashlib.sha256(b"a key").hexdigest())
    (tmp_path / "bad").write_text("ключ", encoding="utf-8")
    (tmp_path / "empty").write_text("")
    guarded = start_server(api_keys_dir=str(tmp_path))
    assert guarded.client.get("/v2", headers={"authorization": "a key"}).status_code == 200
    for wrong in ("", "ключ".encode(), "another key"):
        assert guarded.client.get("/v2", headers={"authorization": wrong}).status_code == 401


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "image", "datatype": "BYTES", "shape": [1], "data": ["é"]}, "not base64"),
        (
            {
                "name": "images",
                "datatype": "FP32",
                "shape": [1, 3, SIDE, SIDE],
                "data": [float("nan")] * 3 * SIDE * SIDE,
            },
            "NaN",
        ),
    ],
    ids=["text that is no base64", "numbers that are none"],
)
def test_infer_request_with_unusable_data_is_refused_in_words(server, entry, words):
    body = json.dumps({"inputs": [entry]})
    json_type = {"content-type": "application/json"}
    answer = server.client.post("/v2/models/colours/infer", content=body, headers=json_type)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_extra_slash_is_refused_in_words_and_redirects_nowhere(server):
    # A redirect's address would lack the prefix that the gateway took off.
    answer = server.client.post("/predict/", content=b"x")
    assert answer.status_code == 404
    assert "POST /predict" in answer.json()["error"]["message"]


@pytest.mark.feature("S12")
def test_metrics_name_the_digest_of_the_model_that_runs(server):
    digest = server.client.get("/nowhere").headers["x-model-digest"]
    assert server.metric("bloomery_model_info", digest=digest, variant="v1", version="4") == 1
