"""MLflow's server, as its documentation has models that take images: a Python function, JPEG as base64 in JSON."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc

sys.path.insert(0, str(Path(__file__).parent))


class Pictures(mlflow.pyfunc.PythonModel):
    """One classifier."""

    def load_context(self, context: Any) -> None:  # noqa: ARG002
        """Load the model in a worker."""
        from classifier import Classifier

        self._classifier = Classifier()

    def predict(self, model_input: list[str]) -> list[dict[str, Any]]:
        """Classify images in base64."""
        return [self._classifier(base64.b64decode(text)) for text in model_input]


if __name__ == "__main__":
    here = Path(__file__).parent
    mlflow.pyfunc.save_model(
        sys.argv[1], python_model=Pictures(), code_paths=[str(here / "classifier.py")], pip_requirements=["onnxruntime"]
    )
