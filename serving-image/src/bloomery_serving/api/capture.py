"""Headers of predictions: the ids of the answers, and the wish that no image be captured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from bloomery_serving.capture.recorder import Upload
from bloomery_serving.image_file import ImageFile

PREDICTION_ID = "x-prediction-id"
NO_CAPTURE = "x-no-capture"

ID_HEADER: dict[str, Any] = {
    "X-Prediction-Id": {
        "description": "The id of the prediction, for feedback; of several, all, with commas between them.",
        "schema": {"type": "string"},
    }
}


def id_header(ids: Sequence[str]) -> dict[str, str]:
    """Return the header of an answer with the ids of its predictions."""
    return {PREDICTION_ID: ", ".join(ids)} if ids else {}


def uploads_of(request: Request, client: str, files: Sequence[ImageFile]) -> list[Upload]:
    """Return the files of a request, with the client's wish that they be captured or not."""
    # Any other value is more likely a wish not to be captured than the opposite.
    may_capture = request.headers.get(NO_CAPTURE, "false").strip().lower() in ("false", "0")
    return [Upload(data=file.data, key=client, may_capture=may_capture) for file in files]
