"""BentoML, as its documentation shows an image endpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
from classifier import Classifier


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 60})
class Service:
    """One classifier."""

    def __init__(self) -> None:
        self._classifier = Classifier()

    @bentoml.api(route="/predict")
    def predict(self, image: Path) -> dict[str, Any]:
        """Classify an upload."""
        return self._classifier(image.read_bytes())
