"""The client for predictions."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from kubectl_bloomery.cluster.predict_client import predict_images
from kubectl_bloomery.errors import CommandError


@pytest.mark.feature("O5")
@pytest.mark.parametrize("page", ["<h1>Sign in</h1>", "[]", '{"model": null}'])
def test_answer_of_another_server_is_an_error(tmp_path: Path, page: str) -> None:
    (tmp_path / "rose.png").write_bytes(b"a rose")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=page))

    with httpx.Client(base_url="http://models", transport=transport) as client, pytest.raises(CommandError) as error:
        list(predict_images(client, [tmp_path / "rose.png"]))

    assert str(error.value) == f"http://models/predict does not answer like a model server: {page}"


@pytest.mark.feature("O5")
@pytest.mark.feature("S17")
def test_unknown_image_has_scores_and_no_label(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"a cat")
    answer = {"label": None, "unknown": True, "scores": {"rose": 0.6, "tulip": 0.4}, "model": {"digest": "sha256:0"}}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))

    with httpx.Client(base_url="http://models", transport=transport) as client:
        (prediction,) = predict_images(client, [tmp_path / "cat.png"])

    assert prediction.to_json() | {"file": "", "model": ""} == {
        "file": "",
        "label": None,
        "unknown": True,
        "scores": {"rose": 0.6, "tulip": 0.4},
        "model": "",
    }
