"""Photos with damaged metadata, of which only the orientation is used."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.component.serving.conftest import GREEN, RED, Server
from tests.unit.model_format.damaged import refused_files, turned_files, upright_files

WIDE = Image.new("RGB", (300, 100), RED)
WIDE.paste(GREEN, (100, 0, 200, 100))
"""Green where the model looks, red at both ends."""


@pytest.mark.feature("S3")
@pytest.mark.parametrize("name", [*upright_files(WIDE), *turned_files(WIDE)])
def test_photo_with_damaged_metadata_is_classified(server: Server, name: str) -> None:
    data = (upright_files(WIDE) | turned_files(WIDE))[name]
    answer = server.client.post("/predict", content=data)
    assert (answer.status_code, answer.json()["label"]) == (200, "green")


@pytest.mark.parametrize("name", refused_files(WIDE))
def test_photo_that_cannot_be_decoded_is_refused_by_name(server: Server, name: str) -> None:
    answer = server.client.post("/predict", files={"image": (name, refused_files(WIDE)[name])})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) in ((400, "NotAnImage"), (400, "DamagedImage"))
    assert error["message"].startswith(f"{name} is ")
