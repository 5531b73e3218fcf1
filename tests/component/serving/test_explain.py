"""POST /explain: a picture of where in an image the model found a class."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bloomery_model.folder import EXPLANATION
from bloomery_model.spotlight import DIMMED
from tests.component.serving.conftest import SIDE, Server, StartServer, encoded, write_model

pytestmark = pytest.mark.feature("T28")

LABELS = ("red", "green", "蓝")


def class_maps(*, classes: int = 3, factor: float = 1.0) -> onnx.ModelProto:
    """The network of the maps of `write_model`'s network: each pixel's colours."""
    weights = (factor * np.eye(classes, 3)[:, :, None, None]).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weights"], ["maps"])],
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", classes, SIDE, SIDE])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def write_explained(folder: Path, explanation: bytes) -> Path:
    """Write a model folder with an explain.onnx, as a training does."""
    folder.mkdir(parents=True, exist_ok=True)
    files = write_model(folder, labels=LABELS)
    (folder / EXPLANATION).write_bytes(explanation)
    files[EXPLANATION] = f"sha256:{hashlib.sha256(explanation).hexdigest()}"
    (folder / "metadata.json").write_text(json.dumps({"format": 1, "files": files}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_explained(tmp_path_factory.mktemp("explained"), class_maps().SerializeToString())


@pytest.fixture(scope="module")
def server(start_server: StartServer, folder: Path) -> Server:
    return start_server(model_uri=f"file://{folder}", explain="true", variant="v1")


def red_and_blue() -> bytes:
    """An image that is red on the left and, on a smaller part, blue on the right."""
    image = Image.new("RGB", (SIDE, SIDE), (0, 0, 0))
    image.paste((250, 0, 0), (0, 0, SIDE // 2, SIDE))
    image.paste((0, 0, 250), (SIDE // 2, 0, SIDE, SIDE // 2))
    return encoded(image, "PNG")


def pixels(answer: httpx.Response) -> NDArray[np.uint8]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(BytesIO(answer.content)))


def test_the_picture_is_bright_where_the_likeliest_class_is(server: Server) -> None:
    answer = server.client.post("/explain", content=red_and_blue())
    shown = pixels(answer)

    assert shown.shape == (SIDE, SIDE, 3)
    assert shown[8, 4, 0] == 250
    assert shown[8, 28, 2] == pytest.approx(250 * DIMMED, abs=2)
    predicted = server.client.post("/predict", content=red_and_blue()).json()
    assert answer.headers["x-class"] == predicted["label"] == "red"
    assert float(answer.headers["x-score"]) == predicted["scores"]["red"]
    assert answer.headers["x-variant"] == "v1"


def test_another_class_is_explained_by_its_name(server: Server) -> None:
    answer = server.client.post("/explain", params={"class": "蓝"}, files={"image": ("a.png", red_and_blue())})
    shown = pixels(answer)

    assert shown[8, 28, 2] == 250
    assert shown[8, 4, 0] == pytest.approx(250 * DIMMED, abs=2)
    assert unquote(answer.headers["x-class"]) == "蓝"


def test_a_class_that_nothing_speaks_for_leaves_the_picture_dark(server: Server) -> None:
    shown = pixels(server.client.post("/explain?class=green", content=red_and_blue()))

    assert shown.max() <= 250 * DIMMED + 1


def test_an_unknown_class_is_refused_with_the_known_ones(server: Server) -> None:
    answer = server.client.post("/explain?class=purple", content=red_and_blue())

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "UnknownClass"
    assert "red, green, 蓝" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"content": b""}, 400, "NoImage"),
        ({"content": b"no image"}, 400, "NotAnImage"),
        ({"files": [("image", ("a.png", red_and_blue()))] * 2}, 400, "TooManyImages"),
        ({"json": {"image": "a"}}, 415, "UnsupportedMediaType"),
        ({"content": encoded(Image.new("1", (6000, 5000)), "PNG")}, 413, "ImageTooLarge"),
    ],
)
def test_what_cannot_be_explained_is_refused_as_by_predict(
    server: Server, body: dict[str, object], status: int, code: str
) -> None:
    answer = server.client.post("/explain", **body)  # type: ignore[arg-type]

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_explanations_need_the_key_of_the_service(start_server: StartServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "default").write_text(hashlib.sha256(b"secret").hexdigest())
    guarded = start_server(model_uri=f"file://{folder}", explain="true", api_keys_dir=str(tmp_path))

    assert guarded.client.post("/explain", content=red_and_blue()).status_code == 401
    with_key = guarded.client.post("/explain", content=red_and_blue(), headers={"Authorization": "secret"})
    assert with_key.status_code == 200
    guarded.wait_for(1, "bloomery_requests_total", route="/explain", code="200", key="default")


def test_explanations_are_off_by_default_and_not_documented(start_server: StartServer, folder: Path) -> None:
    plain = start_server(model_uri=f"file://{folder}")
    answer = plain.client.post("/explain", content=red_and_blue())

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ExplainDisabled")
    assert "/explain" not in plain.client.get("/openapi.json").json()["paths"]
    assert 'data-explains="false"' in plain.client.get("/upload").text


def test_the_api_description_has_the_picture_and_the_class(server: Server) -> None:
    operation = server.client.get("/openapi.json").json()["paths"]["/explain"]["post"]

    assert [(parameter["in"], parameter["name"]) for parameter in operation["parameters"]] == [("query", "class")]
    assert list(operation["responses"]["200"]["content"]) == ["image/png"]
    assert {"400", "401", "404", "409", "413", "415", "429", "500", "503"} <= operation["responses"].keys()


def test_a_model_without_the_network_says_what_to_do(start_server: StartServer) -> None:
    old = start_server(explain="true")
    answer = old.client.post("/explain", content=red_and_blue())

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "NoExplanation")
    assert "Train again" in answer.json()["error"]["message"]
    assert 'data-explains="false"' in old.client.get("/upload").text
    assert old.client.post("/predict", content=red_and_blue()).status_code == 200


def test_more_than_an_eighth_of_the_queue_is_refused(start_server: StartServer, folder: Path) -> None:
    busy = start_server(model_uri=f"file://{folder}", explain="true", queue_size="16")
    large = encoded(Image.new("RGB", (4800, 4800), (250, 0, 0)), "PNG")

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{busy.url}/explain", content=large, timeout=60), range(12)))

    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert busy.client.post("/explain", content=red_and_blue()).status_code == 200


@pytest.mark.parametrize(
    "explanation",
    [
        pytest.param(b"not a network", id="no network"),
        pytest.param(class_maps(classes=2).SerializeToString(), id="maps of other classes"),
        pytest.param(class_maps(factor=float("nan")).SerializeToString(), id="NaN"),
    ],
)
def test_a_damaged_network_costs_no_predictions(start_server: StartServer, tmp_path: Path, explanation: bytes) -> None:
    damaged = start_server(model_uri=f"file://{write_explained(tmp_path, explanation)}", explain="true")

    for _ in range(4):
        answer = damaged.client.post("/explain", content=red_and_blue())
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "ExplanationFailed")
    assert damaged.client.post("/predict", content=red_and_blue()).status_code == 200
    assert damaged.client.get("/v2/health/ready").status_code == 200


def test_another_network_than_the_digest_says_is_not_served(start_server: StartServer, tmp_path: Path) -> None:
    folder = write_explained(tmp_path / "model", class_maps().SerializeToString())
    (folder / EXPLANATION).write_bytes(class_maps(factor=-1).SerializeToString())
    poisoned = start_server(ready=False, model_uri=f"file://{folder}", explain="true")

    assert poisoned.process.wait(60) == 1
    assert EXPLANATION in poisoned.termination_log.read_text()
    assert "DigestMismatch" in poisoned.termination_log.read_text()
    # A service that explains nothing does not read the file.
    assert start_server(model_uri=f"file://{folder}").client.get("/v2/health/ready").status_code == 200


def test_the_network_counts_to_the_room_for_the_model(start_server: StartServer, tmp_path: Path) -> None:
    folder = write_explained(tmp_path / "model", class_maps().SerializeToString() + b"\0" * 20_000)
    crowded = start_server(ready=False, model_uri=f"file://{folder}", explain="true", model_max_bytes="16000")

    assert crowded.process.wait(60) == 1
    assert "ModelTooLarge" in crowded.termination_log.read_text()
    assert start_server(model_uri=f"file://{folder}", model_max_bytes="16000").client.get("/").status_code == 405
