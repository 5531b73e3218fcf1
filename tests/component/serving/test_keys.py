"""API keys: requests with and without them."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.feature("S13")

KEY = "correct horse battery staple"
KEYS = ("key 1", "key 2", "key 3")
REQUESTS = "bloomery_requests_total"


def write_key(folder: Path, name: str, key: str) -> None:
    (folder / name).write_text(hashlib.sha256(key.encode()).hexdigest())


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    write_key(folder, "default", KEY)
    return folder


@pytest.fixture(scope="module")
def guarded(start_server, keys_folder):
    return start_server(api_keys_dir=str(keys_folder), variant="v1")


@pytest.mark.parametrize("header", [KEY, f"Bearer {KEY}", f"bearer  {KEY}"])
def test_key_opens_the_service_with_and_without_bearer(guarded, header):
    assert guarded.client.get("/v2/models/colours", headers={"authorization": header}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "wrong"}, {"authorization": "Bearer"}])
def test_request_without_the_right_key_is_refused_in_words(guarded, headers):
    answer = guarded.client.post("/predict", content=b"x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: KEY" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_needs_no_key(guarded, path):
    assert guarded.client.get(path).status_code == 200


def test_wrong_key_is_refused_before_the_body_is_read(guarded):
    connection = http.client.HTTPConnection(guarded.url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "5000000")
    connection.endheaders()  # not one byte of the body is sent
    assert connection.getresponse().status == 401
    connection.close()


def test_body_that_is_too_large_is_refused_by_its_length(guarded):
    connection = http.client.HTTPConnection(guarded.url.removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("authorization", KEY)
    connection.putheader("content-length", str(10**10))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "BodyTooLarge"
    connection.close()


def test_added_and_removed_keys_count_without_a_restart(guarded, keys_folder):
    write_key(keys_folder, "second", "another key")
    _wait_for(guarded.client, "another key", 200)
    (keys_folder / "second").unlink()
    _wait_for(guarded.client, "another key", 401)
    assert guarded.client.get("/v2", headers={"authorization": KEY}).status_code == 200


def _wait_for(client: httpx.Client, key: str, status: int) -> None:
    end = time.monotonic() + 2
    while client.get("/v2", headers={"authorization": key}).status_code != status:
        assert time.monotonic() < end, f"the key was not answered with {status} within 2 s"
        time.sleep(0.05)


def test_keys_follow_the_swap_of_a_mounted_secret(start_server, tmp_path):
    for version, names in (("..1", {"old": "key 1", "kept": "key 2"}), ("..2", {"new": "key 3", "kept": "key 2"})):
        (tmp_path / version).mkdir()
        for name, key in names.items():
            write_key(tmp_path / version, name, key)
            if not (tmp_path / name).is_symlink():
                (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "..data").symlink_to("..1")
    rotated = start_server(api_keys_dir=str(tmp_path))
    statuses = {key: rotated.client.get("/v2", headers={"authorization": key}).status_code for key in KEYS}
    assert statuses == {"key 1": 200, "key 2": 200, "key 3": 401}
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    _wait_for(rotated.client, "key 3", 200)
    statuses = {key: rotated.client.get("/v2", headers={"authorization": key}).status_code for key in KEYS}
    assert statuses == {"key 1": 401, "key 2": 200, "key 3": 200}
    assert rotated.client.post("/predict", headers={"authorization": "key 2"}).status_code == 400
    assert rotated.metric(REQUESTS, key="kept", route="/predict", code="400") == 1


def test_requests_are_counted_by_the_name_of_their_key(start_server, tmp_path):
    write_key(tmp_path, "team-a", "key of a")
    write_key(tmp_path, "team-b", "key of b")
    counted = start_server(api_keys_dir=str(tmp_path))
    for key, times in (("key of a", 3), ("key of b", 2), ("wrong", 4)):
        for _ in range(times):
            counted.client.post("/predict", headers={"authorization": key})
    assert counted.metric(REQUESTS, key="team-a", code="400") == 3
    assert counted.metric(REQUESTS, key="team-b", code="400") == 2
    assert counted.metric(REQUESTS, key="", code="401") == 4
    output = httpx.get(counted.metrics_url).text + counted.log.read_text()
    assert not any(key in output for key in ("key of a", "key of b", hashlib.sha256(b"key of a").hexdigest()))


def test_key_may_be_of_any_script(start_server, tmp_path):
    write_key(tmp_path, "default", "钥匙-ключ")
    guarded = start_server(api_keys_dir=str(tmp_path))
    assert guarded.client.get("/v2", headers={"authorization": "钥匙-ключ".encode()}).status_code == 200


def test_service_without_keys_answers_every_client(server):
    assert server.client.get("/v2").status_code == 200
    assert server.client.get("/v2", headers={"authorization": "any"}).status_code == 200


def test_empty_folder_of_keys_admits_no_client(start_server, tmp_path):
    closed = start_server(api_keys_dir=str(tmp_path))
    assert closed.client.get("/v2", headers={"authorization": KEY}).status_code == 401
