"""Answers of /predict."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.feature("S3")

BLUE, GREEN, RED = (20, 20, 200), (20, 200, 20), (200, 20, 20)


def form(*files: tuple[str, bytes], field: str = "image"):
    return [(field, (name, data)) for name, data in files]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(colour, kind: str = "PNG", size=(64, 48)) -> bytes:
    return encoded(Image.new("RGB", size, colour), kind)


def test_image_in_a_form_gets_its_label_and_scores(server):
    answer = server.client.post("/predict", files=form(("rose.png", picture(RED)))).json()
    assert answer["label"] == "red"
    assert list(answer["scores"]) == sorted(answer["scores"], key=answer["scores"].get, reverse=True)
    assert math.isclose(sum(answer["scores"].values()), 1, abs_tol=1e-4)
    logits = np.array(RED) / 255 * 10
    expected = np.exp(logits[0]) / np.exp(logits).sum()
    assert answer["scores"]["red"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("path", ["/predict", "/"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_raw_body_of_each_format_is_read(server, path, kind):
    answer = server.client.post(path, content=picture(GREEN, kind), headers={"content-type": f"image/{kind.lower()}"})
    assert answer.json()["label"] == "green"


@pytest.mark.feature("S12")
def test_each_answer_names_variant_model_run_job_and_dataset(server):
    answer = server.client.post("/predict", files=form(("a.png", picture(RED))))
    assert answer.headers["x-variant"] == "v1"
    assert answer.headers["x-model"] == "colours/4"
    assert answer.headers["x-run-id"] == "r1"
    assert answer.headers["x-training-job"] == "t1"
    assert answer.headers["x-dataset"] == "paint"
    assert answer.headers["x-model-digest"] == answer.json()["model"]["digest"]


def test_two_to_ten_images_get_an_answer_each_in_their_order(server):
    files = form(("a.png", picture(RED)), ("b.png", picture(GREEN)), ("c.png", picture(BLUE)))
    predictions = server.client.post("/predict", files=files).json()["predictions"]
    assert [(p["file"], p["label"]) for p in predictions] == [("a.png", "red"), ("b.png", "green"), ("c.png", "blue")]


def test_bad_image_costs_its_neighbours_nothing(server):
    files = form(("a.png", picture(RED)), ("notes.txt", b"hello"), ("c.png", picture(BLUE)))
    answer = server.client.post("/predict", files=files)
    first, second, third = answer.json()["predictions"]
    assert answer.status_code == 200
    assert (first["label"], third["label"]) == ("red", "blue")
    assert second["error"]["code"] == "NotAnImage"
    assert "notes.txt" in second["error"]["message"]


def test_eleventh_image_is_refused_in_words(server):
    answer = server.client.post("/predict", files=form(*[(f"{n}.png", picture(RED)) for n in range(11)]))
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "code": "TooManyImages",
        "message": "A request may have 10 images at most; send more in several.",
    }


def test_text_file_is_refused_with_the_accepted_formats(server):
    answer = server.client.post("/predict", files=form(("notes.txt", b"hello, I am text")))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "NotAnImage"
    assert "JPEG, PNG, BMP and WebP" in answer.json()["error"]["message"]


def test_damaged_image_differs_from_a_file_that_is_none(server):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    cut = encoded(Image.fromarray(noise), "PNG")[:2000]
    answer = server.client.post("/predict", files=form(("cut.png", cut)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "DamagedImage")


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"files": [("picture", ("a.png", b"x"))]}, 400, "NoImage"),
        ({"files": [("picture", ("a.png", b"x"))], "data": {"image": "a.png"}}, 400, "NotAFile"),
        ({"content": b""}, 400, "NoImage"),
        ({"json": {"image": "a.png"}}, 415, "UnsupportedMediaType"),
    ],
)
def test_request_without_an_image_is_refused_in_words(server, request_, status, code):
    answer = server.client.post("/predict", **request_)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "image" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/nowhere", 404)])
def test_wrong_address_is_answered_in_json_and_words(server, method, path, status):
    answer = server.client.request(method, path)
    assert answer.status_code == status
    assert "POST /predict" in answer.json()["error"]["message"]


def test_image_lying_on_its_side_is_read_upright(server):
    # The left half red, the right half green; turned by its EXIF tag, so that red is on top.
    image = Image.new("RGB", (64, 64), GREEN)
    image.paste(RED, (0, 0, 64, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = server.client.post("/predict", content=encoded(image, "JPEG", exif=exif, quality=95)).json()
    upright = encoded(image.transpose(Image.Transpose.ROTATE_270), "JPEG", quality=95)
    plain = server.client.post("/predict", content=upright).json()
    assert turned["scores"]["red"] == pytest.approx(plain["scores"]["red"], abs=0.02)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("RGB", (40, 40), RED).convert("P"), "PNG"),
        (Image.new("RGB", (40, 40), RED).convert("CMYK"), "JPEG"),
        (Image.new("RGBA", (40, 40), (*RED, 128)), "PNG"),
    ],
    ids=["palette", "CMYK", "alpha"],
)
def test_colours_survive_every_way_of_storing_them(server, image, kind):
    assert server.client.post("/predict", content=encoded(image, kind)).json()["label"] == "red"


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_images_of_8_and_16_bits_are_scaled_alike(server, bits):
    grey = np.full((40, 40), 128 if bits == 8 else 128 * 257, np.uint8 if bits == 8 else np.uint16)
    scores = server.client.post("/predict", content=encoded(Image.fromarray(grey), "PNG")).json()["scores"]
    assert scores["red"] == pytest.approx(1 / 3, abs=1e-3)


def test_image_with_too_many_bytes_or_pixels_is_refused_by_name(start_server):
    small = start_server(max_image_bytes="2000", max_image_pixels="10000")
    many_pixels = small.client.post("/predict", files=form(("wide.png", picture(RED, size=(200, 100)))))
    noise = np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)
    many_bytes = small.client.post("/predict", files=form(("noise.png", encoded(Image.fromarray(noise), "PNG"))))
    for answer, name in ((many_pixels, "wide.png"), (many_bytes, "noise.png")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "ImageTooLarge")
        assert name in answer.json()["error"]["message"]


def test_full_queue_says_when_to_come_again(start_server):
    full = start_server(queue_size="0")
    answer = full.client.post("/predict", content=picture(RED))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error"]["code"] == "TooManyRequests"
