"""Capture and feedback with a real S3 server: what is kept, what is refused, and a store that is away."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest

from testing.processes import free_port
from testing.servers import S3_PROGRAM, S3Server
from tests.component.serving.conftest import BLUE, GREEN, RED, Server, StartServer, picture

BUCKET = "captures"
WAIT_SECONDS = 60.0
EVERYTHING = {"capture_percent": "100", "capture_max_per_hour": "100000"}

Start = Callable[..., Server]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    if not S3_PROGRAM.exists():
        pytest.skip("`make cluster` builds the S3 server")
    server = S3Server(free_port(), "captures", tmp_path / "s3", tmp_path / "s3.log")
    server.start()
    server.bucket(BUCKET)
    yield server
    server.kill()


@pytest.fixture
def start(start_server: StartServer, store: S3Server) -> Start:
    """Start a server that captures to the bucket, by the keys of a Secret of its own."""

    def start_with_capture(**settings: str) -> Server:
        keys = {name.lower(): value for name, value in store.environment("CAPTURE_STORE_").items()}
        capture = {"capture_uri": f"s3://{BUCKET}/kept", "service_namespace": "shop", "variant": "v1", "run_id": "r1"}
        return start_server(**(keys | capture | EVERYTHING | settings))

    return start_with_capture


def ask(server: Server, *images: bytes, path: str = "/predict", **headers: str) -> httpx.Response:
    files = [("image", (f"{number}.png", image)) for number, image in enumerate(images)]
    answer = server.client.post(path, files=files, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def objects(store: S3Server) -> dict[str, bytes]:
    bucket = store.bucket(BUCKET)
    paths = [entry["path"] for page in obstore.list(bucket) for entry in page]
    return {path: bytes(obstore.get(bucket, path).bytes()) for path in paths}


def records(store: S3Server) -> dict[str, dict[str, Any]]:
    """Return the records of answers by their ids."""
    documents = {path: content for path, content in objects(store).items() if path.endswith(".json")}
    return {
        Path(path).stem: json.loads(content) for path, content in documents.items() if not path.endswith(".label.json")
    }


def send_feedback(server: Server, body: object, **headers: str) -> httpx.Response:
    return server.client.post("/feedback", json=body, headers=headers)


@pytest.mark.feature("S19")
def test_captured_bytes_are_those_that_were_asked(start: Start, store: S3Server) -> None:
    server = start(model_name="colours", model_version="4")
    images = [picture(RED), picture(GREEN, kind="JPEG"), picture(BLUE, kind="BMP"), picture(RED, kind="WEBP")]

    ids = [ask(server, image).headers["x-prediction-id"] for image in images]
    server.wait_for(4, "bloomery_captures_total", reason="Random")

    stored = objects(store)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    paths = [
        f"kept/shop/colours/{day}/{prediction}.{ending}"
        for prediction, ending in zip(ids, ("png", "jpg", "bmp", "webp"), strict=True)
    ]
    assert [stored.get(path) for path in paths] == images
    assert set(stored) == {*paths, *(f"kept/shop/colours/{day}/{prediction}.json" for prediction in ids)}
    record = records(store)[ids[0]]
    assert record.pop("time").startswith(day)
    assert record.pop("scores").keys() == {"red", "green", "blue"}
    assert record.pop("model").items() >= {"name": "colours", "version": "4"}.items()
    assert record == {
        "id": ids[0], "image": f"{ids[0]}.png", "sha256": hashlib.sha256(images[0]).hexdigest(), "predicted": "red",
        "unknown": False, "reason": "Random", "service": "colours", "namespace": "shop", "variant": "v1", "run": "r1",
        "key": "",
    }  # fmt: skip


@pytest.mark.feature("S19")
@pytest.mark.parametrize("model_is_in_store", [False, True])
def test_requests_come_before_captures(
    start: Start, store: S3Server, model_folder: Path, model_is_in_store: bool
) -> None:
    settings = {}
    if model_is_in_store:  # then the store's client runs before there are captures
        bucket = store.bucket("models")
        for file in model_folder.iterdir():
            obstore.put(bucket, file.name, file.read_bytes())
        settings = {"model_uri": "s3://models/"} | {k.lower(): v for k, v in store.environment().items()}
    server = start(**settings)
    ask(server, picture(RED))
    server.wait_for(1, "bloomery_captures_total", reason="Random")

    pid = server.process.pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        priority = os.getpriority(os.PRIO_PROCESS, int(task.name)) - os.getpriority(os.PRIO_PROCESS, pid)
        name = (task / "comm").read_text().strip()
        if name.startswith(("tokio", "capture")):
            assert (name, priority) == (name, 10)
    assert any((task / "comm").read_text().startswith("tokio") for task in Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.feature("S20")
def test_every_prediction_has_an_id_also_without_capture(server: Server) -> None:
    one = ask(server, picture(RED))
    several = ask(server, picture(RED), b"no image", picture(GREEN))
    infer = {
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [2, 3, 32, 32], "data": [0.5] * (2 * 3 * 1024)}]
    }
    tensors = server.client.post("/v2/models/colours/infer", json=infer)

    entries = several.json()["predictions"]
    assert [("id" in entry, "error" in entry) for entry in entries] == [(True, False), (False, True), (True, False)]
    assert several.headers["x-prediction-id"] == f"{entries[0]['id']}, {entries[2]['id']}"
    ids = [*one.headers["x-prediction-id"].split(", "), *tensors.headers["x-prediction-id"].split(", ")]
    assert (len(ids), len(set(ids))) == (3, 3)
    refused = send_feedback(server, {"id": ids[0], "label": "red"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "CaptureDisabled")


@pytest.mark.feature("S19")
def test_opted_out_requests_and_tensors_are_not_captured(start: Start, store: S3Server) -> None:
    server = start()
    ask(server, picture(RED), **{"X-No-Capture": "true"})
    infer = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}]}
    assert server.client.post("/v2/models/colours/infer", json=infer).status_code == 200
    prediction = ask(server, picture(GREEN), **{"X-No-Capture": "false"}).headers["x-prediction-id"]

    server.wait_for(1, "bloomery_captures_total", reason="Random")
    assert set(records(store)) == {prediction}


@pytest.mark.feature("S19")
def test_images_of_the_protocol_are_captured(start: Start, store: S3Server) -> None:
    import base64

    server, image = start(), picture(BLUE)
    data = [base64.b64encode(image).decode()]
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}]}
    answer = server.client.post("/v2/models/colours/infer", json=body)
    server.wait_for(1, "bloomery_captures_total", reason="Random")

    prediction = answer.headers["x-prediction-id"]
    assert image in objects(store).values()
    assert records(store)[prediction]["predicted"] == "blue"


@pytest.mark.feature("S19")
def test_hourly_bounds_hold_and_drops_are_counted(start: Start, store: S3Server) -> None:
    server = start(capture_percent="0", capture_low_confidence="0", capture_per_class="2", capture_max_per_hour="3")
    for colour in (RED, RED, RED, GREEN, GREEN, BLUE):
        ask(server, picture(colour))

    server.wait_for(3, "bloomery_captures_total", reason="PerClass")
    server.wait_for(2, "bloomery_dropped_captures_total", cause="HourlyLimit")
    assert sorted(record["predicted"] for record in records(store).values()) == ["green", "red", "red"]


@pytest.mark.feature("S19")
def test_metadata_is_stripped_if_that_is_asked(start: Start, store: S3Server) -> None:
    from PIL import Image

    from tests.component.serving.conftest import encoded

    block = Image.Exif()
    block[0x0110] = "secret-camera"
    server = start(capture_strip_metadata="true")
    ask(server, encoded(Image.new("RGB", (64, 48), RED), "JPEG", exif=block))
    server.wait_for(1, "bloomery_captures_total", reason="Random")

    (image,) = (content for path, content in objects(store).items() if path.endswith(".jpg"))
    (record,) = records(store).values()
    assert b"secret" not in image
    assert record["sha256"] == hashlib.sha256(image).hexdigest()


@pytest.mark.feature("S19")
def test_unreachable_store_fails_no_request_and_gets_the_queue_later(start: Start, store: S3Server) -> None:
    image = picture(RED, size=(600, 400), kind="BMP")
    server = start(capture_queue_size="20", capture_queue_bytes=str(10 * len(image)))
    store.kill()

    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: ask(server, image), range(50)))

    assert server.metric("bloomery_capture_queue_bytes") == 10 * len(image)
    assert server.metric("bloomery_dropped_captures_total", cause="QueueFull") == 40
    store.start()
    server.wait_for(10, "bloomery_captures_total", reason="Random")
    server.wait_for(0, "bloomery_capture_queue_bytes")
    documents = records(store)
    assert len(documents) == 10
    assert set(documents) <= {answer.headers["x-prediction-id"] for answer in answers}
    assert all(content == image for path, content in objects(store).items() if path.endswith(".bmp"))
    assert "captures are stored again" in server.log.read_text()


@pytest.mark.feature("S19")
def test_store_that_takes_connections_and_says_nothing_holds_up_no_request(start: Start, store: S3Server) -> None:
    server, image = start(), picture(RED)
    ask(server, image)
    server.wait_for(1, "bloomery_captures_total")
    assert store.process is not None
    os.killpg(store.process.pid, signal.SIGSTOP)

    began = time.monotonic()
    for _ in range(50):
        ask(server, image)

    assert time.monotonic() - began < 20
    assert server.metric("bloomery_captures_total") == 1
    os.killpg(store.process.pid, signal.SIGCONT)
    server.wait_for(51, "bloomery_captures_total")


@pytest.mark.feature("S19")
def test_stopping_server_stores_what_waits(start: Start, store: S3Server) -> None:
    server = start()
    ids = [ask(server, picture(RED)).headers["x-prediction-id"] for _ in range(20)]

    assert server.stop() == 0
    assert set(records(store)) == set(ids)


@pytest.mark.feature("S19")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"capture_store_aws_secret_access_key": "wrong"},
            "the store refuses access to s3://captures/kept/shop/colours",
        ),
        ({"capture_uri": "s3://missing/kept"}, "there is no bucket 'missing'"),
        ({"capture_store_aws_endpoint_url": "store:9000"}, "AWS_ENDPOINT_URL must be http(s)://host:port"),
    ],
    ids=["denied", "no bucket", "no address"],
)
def test_store_that_refuses_is_logged_once_and_fails_no_request(
    settings: dict[str, str], sentence: str, start: Start
) -> None:
    server = start(**settings)
    prediction, *_ = [ask(server, picture(RED)).headers["x-prediction-id"] for _ in range(3)]

    server.wait_for(3, "bloomery_dropped_captures_total", cause="StoreRefused")
    log = server.log.read_text()
    assert log.count(sentence) == 1
    assert "Traceback" not in log
    refused = send_feedback(server, {"id": prediction, "label": "red"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "StoreUnavailable")
    assert "Traceback" not in server.log.read_text()


@pytest.mark.feature("S19")
def test_own_secret_is_never_mixed_with_the_keys_of_the_models(start: Start, store: S3Server) -> None:
    """A Secret without an address must not lead to the store of the models, nor its keys to that of the Secret."""
    elsewhere = {"capture_store_aws_endpoint_url": "", "aws_endpoint_url": f"http://127.0.0.1:{store.port}"}
    keys = {"aws_access_key_id": "captures", "aws_secret_access_key": "captures-secret"}
    server = start(**elsewhere, **keys, capture_store_aws_region="nowhere-1")
    ask(server, picture(RED))

    assert not objects(store)
    assert server.metric("bloomery_captures_total") == 0


@pytest.mark.feature("S19")
@pytest.mark.parametrize(
    "uri",
    ["captures", "https://host/captures", "s3://", "s3://Bucket", "s3://ab/a//b", "s3://abc/../x", "file://captures"],
)
def test_address_that_is_none_is_refused_at_the_start(uri: str, start_server: StartServer) -> None:
    server = start_server(ready=False, capture_uri=uri)

    assert server.process.wait(60) == 1
    message = json.loads(server.termination_log.read_text())["error"]
    assert message["reason"] == "BadSettings"
    assert "CAPTURE_URI" in message["message"]


@pytest.mark.feature("S20")
def test_truth_is_stored_beside_the_capture_and_the_last_one_counts(start: Start, store: S3Server) -> None:
    server = start()
    red, green = (ask(server, picture(colour)).headers["x-prediction-id"] for colour in (RED, GREEN))
    server.wait_for(2, "bloomery_captures_total")

    first = send_feedback(server, {"id": red, "label": "blue"})
    several = send_feedback(server, [{"id": red, "label": "red"}, {"id": green.upper(), "label": " green "}])

    assert (first.status_code, first.json()) == (200, {"id": red, "label": "blue"})
    assert [entry["label"] for entry in several.json()["feedback"]] == ["red", "green"]
    labels = {
        Path(path).name: json.loads(content)["label"] for path, content in objects(store).items() if "label" in path
    }
    assert labels == {f"{red}.label.json": "red", f"{green}.label.json": "green"}
    # The first word about each image counts: a counter cannot take one back.
    assert server.metric("bloomery_live_labelled_total", variant="v1") == 2
    assert server.metric("bloomery_live_correct_total", variant="v1") == 1


@pytest.mark.feature("S20")
def test_feedback_waits_for_no_store_that_is_away(start: Start, store: S3Server) -> None:
    server = start()
    ids = [ask(server, picture(RED)).headers["x-prediction-id"] for _ in range(20)]
    server.wait_for(20, "bloomery_captures_total")
    store.kill()

    began = time.monotonic()
    refused = send_feedback(server, [{"id": prediction, "label": "red"} for prediction in ids])

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "StoreUnavailable")
    assert refused.headers["retry-after"] == "5"
    assert time.monotonic() - began < 20
    store.start()
    assert send_feedback(server, {"id": ids[0], "label": "red"}).status_code == 200


@pytest.mark.feature("S20")
def test_any_pod_counts_feedback_by_the_variant_of_the_answer(start: Start) -> None:
    one, other = start(), start(variant="v2")
    prediction = ask(one, picture(RED)).headers["x-prediction-id"]
    one.wait_for(1, "bloomery_captures_total")

    assert send_feedback(other, {"id": prediction, "label": "red"}).status_code == 200
    assert other.metric("bloomery_live_correct_total", variant="v1") == 1
    assert other.metric("bloomery_live_labelled_total", variant="v2") == 0


@pytest.mark.feature("S20")
def test_only_a_random_sample_counts_as_live_accuracy(start: Start) -> None:
    server = start(capture_percent="0", capture_per_class="5")
    prediction = ask(server, picture(RED)).headers["x-prediction-id"]
    server.wait_for(1, "bloomery_captures_total", reason="PerClass")

    assert send_feedback(server, {"id": prediction, "label": "red"}).status_code == 200
    assert server.metric("bloomery_live_labelled_total") == 0


@pytest.mark.feature("S20")
def test_new_class_must_be_meant(start: Start, store: S3Server) -> None:
    server = start()
    prediction = ask(server, picture(RED)).headers["x-prediction-id"]
    server.wait_for(1, "bloomery_captures_total")

    refused = send_feedback(server, {"id": prediction, "label": "rde"})
    accepted = send_feedback(server, {"id": prediction, "label": "紫", "newClass": True})

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "UnknownClass")
    assert "blue, green, red" in refused.json()["error"]["message"]
    assert (accepted.status_code, accepted.json()["label"]) == (200, "紫")


@pytest.mark.feature("S20")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"id": "../../../etc/passwd", "label": "red"}, 400, "BadId"),
        ({"id": "a/b", "label": "red"}, 400, "BadId"),
        ({"id": "", "label": "red"}, 400, "BadId"),
        ({"id": "0193b1f0-0000-7000-8000-000000000000", "label": "red"}, 404, "NotCaptured"),
        ({"id": "0193b1f0-0000-7000-8000-000000000000", "label": "r\ned"}, 400, "BadLabel"),
        ({"id": "0193b1f0-0000-7000-8000-000000000000", "label": "r\x00ed"}, 400, "BadLabel"),
        ({"id": "0193b1f0-0000-7000-8000-000000000000", "label": " "}, 400, "BadLabel"),
        ({"id": "0193b1f0-0000-7000-8000-000000000000", "label": "x" * 300}, 400, "BadLabel"),
        ({"id": "0193b1f0-0000-7000-8000-000000000000"}, 400, "BadRequest"),
        ({"id": 7, "label": "red"}, 400, "BadRequest"),
        ([], 400, "BadRequest"),
        ("red", 400, "BadRequest"),
        ([{"id": "a/b", "label": "red"}] * 101, 400, "BadRequest"),
    ],
)  # fmt: skip
def test_feedback_that_cannot_be_right_is_refused_in_words(
    body: object, status: int, code: str, capturing: Server
) -> None:
    answer = send_feedback(capturing, body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"].endswith(".")
    assert "Traceback" not in capturing.log.read_text()


@pytest.fixture(scope="module")
def capturing(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server that captures into a local folder."""
    folder = tmp_path_factory.mktemp("captures")
    return start_server(capture_uri=f"file://{folder}/with%20space", **EVERYTHING)


@pytest.mark.feature("S20")
def test_body_that_is_too_large_is_refused_unparsed(capturing: Server) -> None:
    answer = capturing.client.post("/feedback", content=b"[" * (2 * 1024 * 1024))

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "BodyTooLarge")
    assert capturing.client.post("/feedback", content=b"[" * 100_000).status_code == 400


@pytest.mark.feature("S20")
def test_local_folder_takes_captures_and_feedback(capturing: Server) -> None:
    before = capturing.metric("bloomery_captures_total")
    prediction = ask(capturing, picture(RED)).headers["x-prediction-id"]
    capturing.wait_for(before + 1, "bloomery_captures_total")

    assert send_feedback(capturing, {"id": prediction, "label": "red"}).status_code == 200


@pytest.mark.feature("S20")
def test_other_keys_may_not_send_feedback(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("app", "reviewers"):
        (keys / name).write_text(hashlib.sha256(f"key-of-{name}".encode()).hexdigest())
    server = start(api_keys_dir=str(keys), feedback_keys="reviewers")
    prediction = ask(server, picture(RED), Authorization="key-of-app").headers["x-prediction-id"]
    server.wait_for(1, "bloomery_captures_total")
    body = {"id": prediction, "label": "red"}

    answers = [send_feedback(server, body, Authorization=f"key-of-{name}") for name in ("app", "reviewers", "nobody")]

    assert [answer.status_code for answer in answers] == [403, 200, 401]
    assert "reviewers" in answers[0].json()["error"]["message"]


@pytest.mark.feature("S20")
def test_pods_that_get_feedback_at_once_lose_none_of_it(start: Start, store: S3Server) -> None:
    pods = [start(), start(), start()]
    ids = [ask(pods[0], picture(RED)).headers["x-prediction-id"] for _ in range(30)]
    pods[0].wait_for(30, "bloomery_captures_total")

    def label(number: int) -> Sequence[int]:
        return [send_feedback(pod, {"id": ids[number], "label": "red"}).status_code for pod in pods]

    with ThreadPoolExecutor(6) as clients:
        statuses = [status for some in clients.map(label, range(30)) for status in some]

    assert set(statuses) == {200}
    labels = [content for path, content in objects(store).items() if path.endswith(".label.json")]
    assert [json.loads(content)["label"] for content in labels] == ["red"] * 30
