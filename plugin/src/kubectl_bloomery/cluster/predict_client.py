"""Client for the prediction API of an InferenceService."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kubectl_bloomery.cluster.dns import is_cluster_name, is_local
from kubectl_bloomery.cluster.inference_service import serving_revision
from kubectl_bloomery.cluster.kubectl import Kubectl, Manifest
from kubectl_bloomery.errors import CommandError

if TYPE_CHECKING:
    import httpx

MAX_IMAGES_PER_REQUEST = 10
"""The server's limit."""
REVISION_PORT = 80
"""The port of a revision's Kubernetes Service."""
RESPONSE_TIMEOUT_SECONDS = 120.0
PROBE_TIMEOUT_SECONDS = 5.0
_MAX_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Prediction:
    """The service's answer to one image.

    Attributes:
        scores: by class, the highest first; empty after an error.
        label: the service's answer; None if it does not know.
        error: the reason why there is no prediction.
        model: name, version and variant of the model, for people.
        id: of the prediction, for feedback; empty after an error, and from servers before 0.3.0.
    """

    file: str
    scores: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None
    error: str | None = None
    model: str = ""
    id: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``--output json``."""
        if self.error:
            return {"file": self.file, "error": self.error}
        unknown = {"unknown": True} if self.label is None else {}
        answer = {"label": self.label, **unknown, "scores": dict(self.scores), "model": self.model}
        return {"file": self.file, **({"id": self.id} if self.id else {}), **answer}


@contextmanager
def open_service_client(
    kubectl: Kubectl, owner: Manifest, variant: str | None, *, keys: Sequence[str] = ()
) -> Iterator[httpx.Client]:
    """Open an HTTP client for a service, through ``kubectl port-forward`` if its address cannot be reached.

    The API key is sent only to the address in the service's status and to its own pods.

    Args:
        kubectl: for the namespace.
        owner: the service.
        variant: the variant to ask; None: as the weights say.
        keys: names of API keys, of which the first is used that there is; empty: any.

    Raises:
        CommandError: no pod is ready, or the service's Secret has no API key.
    """
    import httpx

    revision = serving_revision(owner, variant)
    headers = _api_key_header(kubectl, owner, keys) | ({b"X-Variant": variant.encode()} if variant else {})
    url = owner["status"].get("url")
    if url and _is_reachable(url):
        with httpx.Client(
            base_url=url, headers=headers, timeout=RESPONSE_TIMEOUT_SECONDS, trust_env=not is_local(_host(url))
        ) as client:
            yield client
        return
    with (
        kubectl.forward(f"service/{revision}", REVISION_PORT) as local_url,
        httpx.Client(base_url=local_url, headers=headers, timeout=RESPONSE_TIMEOUT_SECONDS, trust_env=False) as client,
    ):
        yield client


def _is_reachable(url: str) -> bool:
    """Return whether an address leads to the service from this machine, not only from inside the cluster."""
    import httpx

    if is_cluster_name(_host(url)):
        return False
    try:
        response = httpx.get(f"{url}/v2/health/live", timeout=PROBE_TIMEOUT_SECONDS, trust_env=not is_local(_host(url)))
    except httpx.TransportError:
        return False
    return response.is_success


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _api_key_header(kubectl: Kubectl, owner: Manifest, chosen: Sequence[str]) -> dict[bytes, bytes]:
    """Return the header with an API key of the service, as bytes of any script; empty if it needs no key."""
    name = owner["status"].get("apiKeySecret")
    if not name:
        return {}
    keys = kubectl.get("secret", name).get("data") or {}
    if not keys:
        raise CommandError(f"The Secret {name} has no API key.")
    value = next((keys[key] for key in chosen or ("default", *sorted(keys)) if keys.get(key)), None)
    if value is None:
        missing = f"API key {' or '.join(chosen)}: it has {', '.join(sorted(keys))}" if chosen else "API key"
        raise CommandError(f"The Secret {name} has no {missing}.")
    return {b"Authorization": base64.b64decode(value).strip()}


def predict_images(client: httpx.Client, images: Sequence[Path]) -> Iterator[Prediction]:
    """Yield the prediction for each image, in order; a failed request is the error of each of its images.

    Raises:
        CommandError: the server is not a model server.
    """
    for start in range(0, len(images), MAX_IMAGES_PER_REQUEST):
        yield from _predict_batch(client, images[start : start + MAX_IMAGES_PER_REQUEST])


def _predict_batch(client: httpx.Client, images: Sequence[Path]) -> list[Prediction]:
    import httpx

    try:
        response = client.post("/predict", files=[("image", (str(image), image.read_bytes())) for image in images])
    except httpx.HTTPError as error:
        return [Prediction(str(image), error=f"the service was not reached: {error}") for image in images]
    if response.status_code != httpx.codes.OK:
        return [Prediction(str(image), error=read_error(response)) for image in images]
    try:
        document = response.json()
        model = _describe_model(document["model"])
        # An answer to one image has its id in the header alone.
        entries = document.get("predictions", [document | {"id": response.headers.get("x-prediction-id", "")}])
        return [_parse_entry(str(image), entry, model) for image, entry in zip(images, entries, strict=True)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = _shorten_body(response)
        raise CommandError(f"{response.url} does not answer like a model server: {text}") from error


def _parse_entry(file: str, entry: Mapping[str, Any], model: str) -> Prediction:
    error = entry.get("error")
    if error:
        return Prediction(file, error=_format_error(error))
    return Prediction(file, scores=entry["scores"], label=entry["label"], model=model, id=entry.get("id", ""))


def _describe_model(model: Mapping[str, str]) -> str:
    """Return ``flowers/4 (v1)``, without the parts that are unknown."""
    name = "/".join(model[part] for part in ("name", "version") if model.get(part))
    variant = f"({model['variant']})" if model.get("variant") else ""
    return " ".join(filter(None, (name or model["digest"][:19], variant)))


def read_error(response: httpx.Response) -> str:
    """Return the error of the service, or the status and text of a gateway that did not reach it."""
    try:
        return _format_error(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = _shorten_body(response)
        return f"HTTP {response.status_code} {response.reason_phrase}" + (f": {text}" if text else "")


def _shorten_body(response: httpx.Response) -> str:
    return " ".join(response.text.split())[:_MAX_ERROR_LENGTH]


def _format_error(error: Mapping[str, str]) -> str:
    return f"{error['message']} ({error['code']})"
