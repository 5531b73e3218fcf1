"""``kubectl bloomery feedback``: the true classes of captured images, from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubectl_bloomery.cluster.kubectl import SERVICES, Kubectl
from kubectl_bloomery.cluster.predict_client import open_service_client, read_error
from kubectl_bloomery.errors import CommandError, error_on_read
from kubectl_bloomery.options import Context, JsonOutput, Namespace, Service
from kubectl_bloomery.output import console, error_console, print_json, table

if TYPE_CHECKING:
    import httpx

MAX_ENTRIES_PER_REQUEST = 100
"""The server's limit."""
_HEADER = ["id", "label"]

Entry = dict[str, Any]


def feedback(
    service: Service,
    file: Annotated[
        Path, typer.Option("--filename", "-f", help="A CSV file with lines of id,label.", show_default=False)
    ],
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Allow labels that are no class of the model.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(help="The name of the API key; default: one that spec.feedback.keys allows.")
    ] = None,
    output: JsonOutput = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Send the true classes of captured images; the exit code is 1 where one of them was not taken."""
    entries = read_entries(file, new_classes=new_classes)
    kubectl = Kubectl(namespace, context)
    owner = kubectl.get(SERVICES, service)
    allowed = (owner["spec"].get("feedback") or {}).get("keys") or ()
    with open_service_client(kubectl, owner, None, keys=[key] if key else allowed) as client:
        answers, failure = _send_all(client, entries)
    refused = [answer for answer in answers if "error" in answer]
    if output is not None:
        print_json(answers)
    else:
        if refused:
            rows = [[answer["id"], answer["error"]["code"], answer["error"]["message"]] for answer in refused]
            console().print(table(("ID", "REFUSED", "MESSAGE"), rows))
        error_console().print(f"{len(answers) - len(refused)} of {len(answers)} labels are stored.", markup=False)
    if failure is not None:
        left = f"{len(entries) - len(answers)} entries were not sent, from {entries[len(answers)]['id']} on"
        raise CommandError(f"{failure} {left}." if answers else str(failure))
    if refused:
        raise typer.Exit(1)


def read_entries(path: Path, *, new_classes: bool) -> list[Entry]:
    """Return the entries of a CSV file, whose first line may be ``id,label``.

    Raises:
        CommandError: the file cannot be read, or a line has not two fields.
    """
    try:
        # Spreadsheets begin a file with a byte order mark.
        with error_on_read(path), path.open(encoding="utf-8-sig", newline="") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    if lines and [field.strip().lower() for field in lines[0][1]] == _HEADER:
        del lines[0]
    if not lines:
        raise CommandError(f"{path} has no lines of id,label.")
    for number, row in lines:
        if len(row) != len(_HEADER) or not all(field.strip() for field in row):
            raise CommandError(f"{path}, line {number}: there must be an id and a label, as in id,roses.")
    more = {"newClass": True} if new_classes else {}
    return [{"id": prediction_id.strip(), "label": label.strip(), **more} for _, (prediction_id, label) in lines]


def _send_all(client: httpx.Client, entries: Sequence[Entry]) -> tuple[list[Entry], CommandError | None]:
    """Send entries in parts; return the answers, and why the rest got none."""
    answers: list[Entry] = []
    for batch in _split(entries):
        try:
            answers += _send(client, batch)
        except CommandError as error:
            return answers, error
    return answers, None


def _split(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), MAX_ENTRIES_PER_REQUEST):
        yield entries[start : start + MAX_ENTRIES_PER_REQUEST]


def _send(client: httpx.Client, entries: Sequence[Entry]) -> list[Entry]:
    """Send entries, and return the answer to each.

    Raises:
        CommandError: the service refused all of them, or was not reached.
    """
    import httpx

    try:
        response = client.post("/feedback", json=list(entries))
    except httpx.HTTPError as error:
        raise CommandError(f"The service was not reached: {error}") from error
    if response.status_code != httpx.codes.OK:
        raise CommandError(read_error(response))
    answers = response.json()["feedback"]
    return [{name: value for name, value in answer.items() if value is not None} for answer in answers]
