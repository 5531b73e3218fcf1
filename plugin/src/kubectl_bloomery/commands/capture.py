"""``kubectl bloomery captured``: what a service captured, as counts, the least certain images, and a page of them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kubectl_bloomery.cluster.inference_service import serving_deployment
from kubectl_bloomery.cluster.kubectl import SERVICES, Kubectl, Manifest
from kubectl_bloomery.cluster.server_pod import build_server_pod
from kubectl_bloomery.cluster.temporary_pod import run_pod
from kubectl_bloomery.errors import CommandError, error_on_write
from kubectl_bloomery.options import Context, JsonOutput, Namespace, Service
from kubectl_bloomery.output import console, error_console, print_json, table

PURPOSE = "captures"
"""Of the pod that reads the store, which network policies know by it."""
_COMMAND = ("python", "-m", "bloomery_serving", "captures")


def capture(
    service: Service,
    days: Annotated[int, typer.Option(min=1, max=366, help="The last so many days, with today.")] = 7,
    first: Annotated[int, typer.Option(min=0, max=1000, help="So many of the least certain images.")] = 20,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page with pictures of these images.", show_default=False)
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Delete this capture; may be repeated.", show_default=False)
    ] = None,
    output: JsonOutput = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show what a service captured: counts, and the least certain images that nobody has labelled."""
    kubectl = Kubectl(namespace, context)
    owner = kubectl.get(SERVICES, service)
    deployment = serving_deployment(kubectl, owner, _capturing_variant(owner))
    if delete:
        _print_deleted(_run_in_pod(kubectl, owner, deployment, ["delete", *delete]), as_json=output is not None)
        return
    arguments = ["list", f"--days={days}", f"--first={first}", *(["--pictures"] if page else [])]
    summary = _run_in_pod(kubectl, owner, deployment, arguments)
    if page is not None:
        with error_on_write(page):
            page.write_text(render_page(service, summary), encoding="utf-8")
        error_console().print(f"{page}: {len(summary['leastCertain'])} images.", markup=False, soft_wrap=True)
    if output is not None:
        print_json(summary)
    elif page is None:
        _print_summary(summary)


def _capturing_variant(owner: Manifest) -> str:
    """Return a variant that captures; shadows do not.

    Raises:
        CommandError: the service captures nothing.
    """
    variants = [str(variant["name"]) for variant in owner["spec"]["variants"] if not variant.get("mirrorPercent")]
    if not owner["spec"].get("capture") or not variants:
        raise CommandError(f"{owner['metadata']['name']} captures nothing: set its spec.capture.")
    return variants[0]


def _run_in_pod(kubectl: Kubectl, owner: Manifest, deployment: Manifest, arguments: Sequence[str]) -> Any:
    """Run the server's command in a pod that reaches the store, and return its document."""
    pod = build_server_pod(owner, deployment, purpose=PURPOSE)
    with run_pod(kubectl, pod, error_console()), error_console().status("Reading the captures"):
        return json.loads(kubectl.run("exec", pod["metadata"]["name"], "--", *_COMMAND, *arguments))


def _print_deleted(entries: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        print(f"{entry['id']}: {'deleted' if entry['deleted'] else 'there was no such capture'}")


def _print_summary(summary: Mapping[str, Any]) -> None:
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary["reasons"].items())
    counts = f"{summary['captures']} images in {summary['days']} days, {summary['labelled']} with a label"
    print(f"{summary['uri']}: {counts}" + (f" ({reasons})" if reasons else ""))
    if summary["classes"]:
        rows = [[row["name"], row["captures"], row["labelled"], row["correct"]] for row in summary["classes"]]
        console().print(table(("PREDICTED", "IMAGES", "LABELLED", "CORRECT"), rows))
    if summary["leastCertain"]:
        print("\nThe least certain without a label:")
        rows = [
            [entry["id"], entry["predicted"], f"{entry['confidence']:.2%}", entry["reason"], entry["variant"]]
            for entry in summary["leastCertain"]
        ]
        console().print(table(("ID", "PREDICTED", "SCORE", "REASON", "VARIANT"), rows))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1.5rem; padding: 0; }}
li {{ list-style: none; overflow-wrap: anywhere; }}
img {{ display: block; max-width: 100%; height: 12rem; object-fit: contain; background: #eee; }}
code {{ font-size: 0.75rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{counts}</p>
<ul>
{items}
</ul>
</body>
</html>
"""


def render_page(service: str, summary: Mapping[str, Any]) -> str:
    """Return a page with the least certain captures, which needs nothing from other servers."""
    counts = f"{summary['captures']} images in {summary['days']} days, {summary['labelled']} with a label."
    advice = " The least certain without a label are below; feedback takes a file with lines of id,label."
    return _PAGE.format(
        title=html.escape(f"Captures of {service}"),
        counts=html.escape(counts + advice),
        items="\n".join(map(_render_item, summary["leastCertain"])),
    )


def _render_item(entry: Mapping[str, Any]) -> str:
    predicted = html.escape(str(entry["predicted"]))
    # A picture comes from the store, whose writers are not those of this page.
    source = str(entry.get("picture") or "")
    picture = f'<img src="{html.escape(source)}" alt="{predicted}">' if source.startswith("data:image/jpeg") else ""
    details = html.escape(f"{entry['confidence']:.2%} · {entry['reason']} · {entry['variant']} · {entry['time']}")
    return f"<li>{picture}<strong>{predicted}</strong> {details}<br><code>{html.escape(str(entry['id']))}</code></li>"
