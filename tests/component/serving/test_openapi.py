"""The server keeps to its /openapi.json: the keys, and every answer and refusal."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from PIL import Image

from tests.component.serving.conftest import BLUE, RED, SIDE, Server, StartServer, encoded, picture
from tests.component.serving.test_keys import KEY, write_key

Document = dict[str, Any]


@pytest.fixture(scope="module")
def guarded(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with a key, and little room."""
    keys = tmp_path_factory.mktemp("keys")
    write_key(keys, "default", KEY)
    return start_server(api_keys_dir=str(keys), max_image_bytes="3000", model_name="colours", model_version="4")


@pytest.fixture(scope="module")
def full(start_server: StartServer) -> Server:
    return start_server(queue_size="0")


def description(server: Server) -> Document:
    answer = server.client.get("/openapi.json")
    assert answer.status_code == 200
    document: Document = answer.json()
    return document


@pytest.mark.feature("S3")
def test_description_keeps_to_openapi_3_1(server: Server, guarded: Server) -> None:
    for document in (description(server), description(guarded)):
        assert document["openapi"].startswith("3.1")
        validate(document, cls=OpenAPIV31SpecValidator)


@pytest.mark.feature("S13")
def test_key_is_described_only_where_one_is_needed(server: Server, guarded: Server) -> None:
    keyed, opened = description(guarded), description(server)

    assert [(s["in"], s["name"]) for s in keyed["components"]["securitySchemes"].values()] == [
        ("header", "Authorization")
    ]
    assert keyed["security"] == [{name: []} for name in keyed["components"]["securitySchemes"]]
    assert "securitySchemes" not in opened["components"]
    assert "security" not in opened


@pytest.mark.feature("S13")
def test_only_routes_described_as_open_need_no_key(guarded: Server) -> None:
    for path, operations in description(guarded)["paths"].items():
        for method, operation in operations.items():
            answer = guarded.client.request(method, filled(path))
            assert (answer.status_code == 401) == (operation.get("security") != []), f"{method} {path}"


@pytest.mark.feature("S13")
@pytest.mark.parametrize("page", ["/docs", "/upload"])
def test_page_gets_all_files_from_the_server_without_a_key(guarded: Server, page: str) -> None:
    addresses = re.findall(r'<(?:link|script)[^>]* (?:href|src)="([^"]+)"', guarded.client.get(page).text)
    assert len(addresses) >= 3
    # Relative to the page, below whatever prefix the gateway takes off.
    assert {address: guarded.client.get(f"/{address}").status_code for address in addresses} == dict.fromkeys(
        addresses, 200
    )


def filled(path: str) -> str:
    return path.replace("{model_name}", "colours").replace("{model_version}", "4")


@dataclass(frozen=True)
class Call:
    """A request, where it is described, and the status that it gets."""

    path: str
    status: int
    method: str = "POST"
    requested: str = ""
    """The requested path, if it is not the described one."""
    key: str = KEY
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.status} {self.method} {self.requested or self.path} {' '.join(self.request)}"


MODEL = "/v2/models/{model_name}"
VERSION = f"{MODEL}/versions/{{model_version}}"
FILES = [("image", (f"{n}.png", picture(colour))) for n, colour in enumerate((RED, BLUE))]
JSON = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture(RED)).decode()]}
BIG = encoded(Image.effect_noise((90, 90), 200), "PNG")


def infer(**more: object) -> dict[str, Any]:
    return {"json": {"inputs": [JSON], **more}}


PREDICTIONS = (
    Call("/predict", 200, request={"files": FILES[:1]}),
    Call("/predict", 200, request={"content": picture(RED)}),
    Call("/predict", 200, request={"files": [*FILES, ("image", ("notes.txt", b"hello"))]}),
    Call("/predict", 400, request={"content": b"no image"}),
    Call("/predict", 400, request={"files": FILES[:1] * 11}),
    Call("/predict", 401, key="another", request={"content": picture(RED)}),
    Call("/predict", 405, method="GET"),
    Call("/predict", 413, request={"content": BIG}),
    Call("/predict", 413, request={"content": bytes(2_000_000)}),
    Call("/predict", 415, request={"json": {"image": "rose.png"}}),
    Call("/predict", 415, request={"content": b"x", "headers": {"content-encoding": "gzip"}}),
    Call("/predict", 404, requested="/predictions", request={"content": picture(RED)}),
)
PROTOCOL = (
    *(Call(path, 200, method="GET") for path in ("/v2", "/v2/health/live", "/v2/health/ready")),
    *(Call(path, 200, method="GET") for path in (MODEL, VERSION, f"{MODEL}/ready", f"{VERSION}/ready")),
    *(Call(path, 401, method="GET", key="") for path in ("/v2", MODEL, VERSION, f"{MODEL}/ready", f"{VERSION}/ready")),
    Call(MODEL, 404, method="GET", requested="/v2/models/flowers"),
    Call(VERSION, 404, method="GET", requested="/v2/models/colours/versions/5"),
    Call(MODEL, 405, method="DELETE"),
    *(
        call
        for path in (f"{MODEL}/infer", f"{VERSION}/infer")
        for call in (
            Call(path, 200, request=infer(id="7")),
            Call(path, 200, request=infer(outputs=[{"name": "scores", "parameters": {"classification": 2}}])),
            Call(path, 200, request=infer(parameters={"binary_data_output": True})),
            Call(path, 400, request=infer(outputs=[{"name": "boxes"}])),
            Call(path, 400, request={"content": b"{"}),
            Call(path, 401, key="", request=infer()),
            Call(path, 404, requested=path.replace("{model_name}", "flowers"), request=infer()),
            Call(path, 405, method="GET"),
            Call(path, 413, request={"content": b"[" + b"0," * (30 * SIDE * SIDE + 10_001)}),
            Call(path, 415, request={"content": b"x", "headers": {"content-encoding": "br"}}),
        )
    ),
)


@pytest.mark.feature("S3")
@pytest.mark.parametrize("call", PREDICTIONS, ids=lambda call: call.name)
def test_every_answer_to_a_prediction_is_as_described(guarded: Server, call: Call) -> None:
    check(guarded, call)


@pytest.mark.feature("S14")
@pytest.mark.parametrize("call", PROTOCOL, ids=lambda call: call.name)
def test_every_answer_of_the_protocol_is_as_described(guarded: Server, call: Call) -> None:
    check(guarded, call)


@pytest.mark.parametrize(
    "call",
    [
        Call("/predict", 429, request={"content": picture(RED)}),
        Call(f"{MODEL}/infer", 429, request=infer()),
        Call(f"{VERSION}/infer", 429, request=infer()),
    ],
    ids=lambda call: call.name,
)
def test_full_server_refuses_as_described(full: Server, call: Call) -> None:
    check(full, call)


def check(server: Server, call: Call) -> None:
    """Send a request and hold its answer against the description of its path, method and status."""
    headers = {"authorization": call.key} | dict(call.request.get("headers", {}))
    rest = {name: value for name, value in call.request.items() if name != "headers"}
    answer = server.client.request(call.method, filled(call.requested or call.path), headers=headers, **rest)
    assert answer.status_code == call.status, answer.text
    document = description(server)
    operations = document["paths"][call.path]
    # A method that is not answered is described nowhere but at those that are.
    operation = operations.get(call.method.lower()) or next(iter(operations.values()))
    assert_described(document, operation, answer)


def assert_described(document: Document, operation: Document, answer: httpx.Response) -> None:
    assert str(answer.status_code) in operation["responses"]
    response = operation["responses"][str(answer.status_code)]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in response["content"]
    if kind != "application/json":
        return
    schema = response["content"][kind]["schema"]
    Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json())
    error = answer.json().get("error")
    if isinstance(error, dict):
        assert re.search(rf"\b{error['code']}\b", response["description"])
