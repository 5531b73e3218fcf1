"""LitServe, as its documentation shows an image endpoint: base64 in JSON."""

import base64
import os
from typing import Any

import litserve as ls
from classifier import Classifier


class Api(ls.LitAPI):
    """One classifier."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model in a worker."""
        self._classifier = Classifier()

    def decode_request(self, request):  # LitServe reads annotations as FastAPI does
        """Take the only image."""
        return base64.b64decode(request["inputs"][0])

    def predict(self, jpeg: bytes) -> dict[str, Any]:
        """Classify it."""
        return self._classifier(jpeg)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Answer as JSON."""
        return output


if __name__ == "__main__":
    server = ls.LitServer(Api(), accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
