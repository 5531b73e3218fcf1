"""Asking a model server what images show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubectl_bloomery.kubectl import CommandError

if TYPE_CHECKING:
    import httpx

TOGETHER = 10
"""Images in one request, at most: the server takes no more."""
_LONGEST = 300


@dataclass(frozen=True)
class Answer:
    """What a service said of one image: scores, the likeliest first, or an error.

    Attributes:
        model: which model answered, with its variant, for people.
    """

    file: str
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    model: str = ""

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        if self.error:
            return {"file": self.file, "error": self.error}
        return {"file": self.file, "label": next(iter(self.scores)), "scores": dict(self.scores), "model": self.model}


def ask(client: httpx.Client, images: Sequence[Path]) -> Iterator[Answer]:
    """Yield the answer to each image, in order; a request that fails is told of each of its images.

    Raises:
        CommandError: what answers is no model server.
    """
    for start in range(0, len(images), TOGETHER):
        yield from _ask(client, images[start : start + TOGETHER])


def _ask(client: httpx.Client, images: Sequence[Path]) -> list[Answer]:
    import httpx

    try:
        response = client.post("/predict", files=[("image", (str(image), image.read_bytes())) for image in images])
    except httpx.HTTPError as error:
        return [Answer(str(image), error=f"the service was not reached: {error}") for image in images]
    if response.status_code != httpx.codes.OK:
        return [Answer(str(image), error=_refusal(response)) for image in images]
    try:
        document = response.json()
        model = _model(document["model"])
        entries = document.get("predictions", [document])
        return [_answer(str(image), entry, model) for image, entry in zip(images, entries, strict=True)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"{response.url} does not answer as a model server does: {_words(response)}") from error


def _answer(name: str, entry: Mapping[str, Any], model: str) -> Answer:
    error = entry.get("error")
    if error:
        return Answer(name, error=_sentence(error))
    return Answer(name, scores=entry["scores"], model=model)


def _model(model: Mapping[str, str]) -> str:
    """Return ``flowers/4 (v1)``, as far as it is known."""
    known = "/".join(model[part] for part in ("name", "version") if model.get(part))
    variant = f"({model['variant']})" if model.get("variant") else ""
    return " ".join(filter(None, (known or model["digest"][:19], variant)))


def _refusal(response: httpx.Response) -> str:
    """Return why a request was not answered, in the service's words or, where it was never reached, the gateway's."""
    try:
        return _sentence(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        words = _words(response)
        return f"HTTP {response.status_code} {response.reason_phrase}" + (f": {words}" if words else "")


def _words(response: httpx.Response) -> str:
    return " ".join(response.text.split())[:_LONGEST]


def _sentence(error: Mapping[str, str]) -> str:
    return f"{error['message']} ({error['code']})"
