"""``kubectl bloomery predict``: predictions of a service for local images, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from kubectl_bloomery.cluster.inference_service import require_variant
from kubectl_bloomery.cluster.kubectl import SERVICES, Kubectl
from kubectl_bloomery.cluster.predict_client import Prediction, open_service_client, predict_images
from kubectl_bloomery.errors import error_on_read
from kubectl_bloomery.options import Context, JsonOutput, Namespace, Service
from kubectl_bloomery.output import console, error_console, print_json, table

_BAR_LENGTH = 20
"""Characters of the bar for the score 1."""


def predict(
    service: Service,
    images: Annotated[list[Path], typer.Argument(help="Images, as many as you like.", show_default=False)],
    variant: Annotated[str | None, typer.Option(help="Ask this variant, whatever its weight.")] = None,
    top: Annotated[int, typer.Option(min=1, help="So many classes of each image.")] = 3,
    output: JsonOutput = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Ask a service what images show; the exit code is 1 where one of them was not answered."""
    for image in images:
        with error_on_read(image):
            image.open("rb").close()
    kubectl = Kubectl(namespace, context)
    owner = kubectl.get(SERVICES, service)
    if variant is not None:
        require_variant(owner, variant)
    with open_service_client(kubectl, owner, variant) as client:
        predictions = list(predict_images(client, images))
    if output is None:
        console().print(table(["IMAGE", "LABEL", "SCORE", "", "MODEL"], _table_rows(predictions, top)))
        _print_errors(predictions)
    else:
        print_json([prediction.to_json() for prediction in predictions])
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(1)


def _table_rows(predictions: Sequence[Prediction], top: int) -> Iterator[list[object]]:
    for prediction in predictions:
        if prediction.error:
            yield [prediction.file, "", "", "", ""]
        for number, (label, score) in enumerate(list(prediction.scores.items())[:top]):
            file, model = (prediction.file, prediction.model) if number == 0 else ("", "")
            name = f"not sure: {label}" if number == 0 and prediction.label is None else label
            yield [file, name, f"{score:.2%}", _score_bar(score), model]


def _score_bar(score: float) -> str:
    return "█" * round(score * _BAR_LENGTH) or "▏"


def _print_errors(predictions: Sequence[Prediction]) -> None:
    from rich.markup import escape

    for prediction in predictions:
        if prediction.error:
            message = escape(f"{prediction.file}: {prediction.error}")
            error_console().print(f"[red]error:[/] {message}", soft_wrap=True)
