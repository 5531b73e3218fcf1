"""The prediction of one image, as answers and outputs show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bloomery_serving.answers import Answer


@dataclass(frozen=True)
class Prediction:
    """The classification of one image: each class' probability, the likeliest first; no label if it is unknown."""

    id: str
    file: str
    label: str | None
    scores: dict[str, float]

    @classmethod
    def of(cls, file: str, answer: Answer, labels: Sequence[str]) -> Prediction:
        """Return the prediction of a file.

        Args:
            file: its name.
            answer: of the model.
            labels: the names of the classes, in the order of the scores.
        """
        order = np.argsort(-answer.scores, kind="stable").tolist()
        rounded = answer.scores.astype(float).round(6).tolist()
        return cls(answer.id, file, answer.label, {labels[index]: rounded[index] for index in order})

    @property
    def document(self) -> dict[str, Any]:
        """The prediction as the answer shows it."""
        return {"label": self.label, **({"unknown": True} if self.label is None else {}), "scores": self.scores}
