"""``kubectl bloomery predict``: pictures to a service, its answers in a table."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from kubectl_bloomery.addresses import is_here, is_inside
from kubectl_bloomery.asking import Answer, ask
from kubectl_bloomery.kubectl import SERVICES, CommandError, Kubectl, Manifest
from kubectl_bloomery.options import Context, JsonOutput, Namespace, Service
from kubectl_bloomery.service import require_variant, serving_revision
from kubectl_bloomery.show import console, errors, print_json, table

if TYPE_CHECKING:
    import httpx

PORT = 80
"""Of a revision's Service."""
ANSWER_SECONDS = 120.0
PROBE_SECONDS = 5.0
_BAR = 20


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
        _require_readable(image)
    kubectl = Kubectl(namespace, context)
    owner = kubectl.get(SERVICES, service)
    if variant is not None:
        require_variant(owner, variant)
    with _door(kubectl, owner, variant) as client:
        answers = list(ask(client, images))
    if output is None:
        console().print(table(["IMAGE", "LABEL", "SCORE", "", "MODEL"], _rows(answers, top)))
        _explain(answers)
    else:
        print_json([answer.document() for answer in answers])
    if any(answer.error for answer in answers):
        raise typer.Exit(1)


def _require_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise CommandError(f"{path} can not be read: {error.strerror or error}.") from error


@contextmanager
def _door(kubectl: Kubectl, owner: Manifest, variant: str | None) -> Iterator[httpx.Client]:
    """Give a client with the service's address and key; its pods are reached through kubectl where nothing else does.

    The key goes to the address in the service's status and to its own pods only.
    """
    import httpx

    revision = serving_revision(owner, variant)
    headers = _key(kubectl, owner) | ({b"X-Variant": variant.encode()} if variant else {})
    url = owner["status"].get("url")
    if url and _leads_here(url):
        with httpx.Client(
            base_url=url, headers=headers, timeout=ANSWER_SECONDS, trust_env=not is_here(_host(url))
        ) as client:
            yield client
        return
    with (
        kubectl.forward(f"service/{revision}", PORT) as local,
        httpx.Client(base_url=local, headers=headers, timeout=ANSWER_SECONDS, trust_env=False) as client,
    ):
        yield client


def _leads_here(url: str) -> bool:
    """Whether an address leads from this machine to the service, rather than from the cluster alone."""
    import httpx

    if is_inside(_host(url)):
        return False
    try:
        response = httpx.get(f"{url}/v2/health/live", timeout=PROBE_SECONDS, trust_env=not is_here(_host(url)))
    except httpx.TransportError:
        return False
    return response.is_success


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _key(kubectl: Kubectl, owner: Manifest) -> dict[bytes, bytes]:
    """Return the header with the first key of the service's Secret, letters of any script; none where it needs none."""
    name = owner["status"].get("apiKeySecret")
    if not name:
        return {}
    keys = kubectl.get("secret", name).get("data") or {}
    if not keys:
        raise CommandError(f"The Secret {name} holds no key.")
    value = keys.get("default") or keys[min(keys)]
    return {b"Authorization": base64.b64decode(value).strip()}


def _rows(answers: Sequence[Answer], top: int) -> Iterator[list[object]]:
    for answer in answers:
        if answer.error:
            yield [answer.file, "", "", "", ""]
        for number, (label, score) in enumerate(list(answer.scores.items())[:top]):
            first = number == 0
            yield [answer.file if first else "", label, f"{score:.2%}", _bar(score), answer.model if first else ""]


def _bar(score: float) -> str:
    return "█" * round(score * _BAR) or "▏"


def _explain(answers: Sequence[Answer]) -> None:
    from rich.markup import escape

    for answer in answers:
        if answer.error:
            errors().print(f"[red]error:[/] {escape(f'{answer.file}: {answer.error}')}", soft_wrap=True)
