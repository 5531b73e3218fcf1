"""The commands, and how their errors are told."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from kubectl_bloomery import check, follow, kit, live, predict, report, retrain, weights
from kubectl_bloomery.kubectl import CommandError

app = typer.Typer(name="kubectl bloomery", help="What kubectl itself has no command for.", no_args_is_help=True)
app.command("check")(check.check)
app.command("follow")(follow.follow)
app.command("predict")(predict.predict)
app.command("retrain")(retrain.retrain)
app.command("live")(live.live)
app.command("report")(report.report)
app.command("kit")(kit.kit)
app.add_typer(weights.app, name="weights")


@app.callback()
def bloomery() -> None:
    """What kubectl itself has no command for."""


def main() -> None:
    """Run the command of the command line, and exit with its code."""
    # So that a command cleans up after itself, as it does at Ctrl+C.
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _stop(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
