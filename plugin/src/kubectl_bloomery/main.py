"""The app: registers the commands, prints their errors and sets the exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from kubectl_bloomery.commands import (
    approve,
    capture,
    check,
    feedback,
    follow,
    kit,
    live,
    predict,
    report,
    retrain,
    suspects,
    version,
    weights,
)
from kubectl_bloomery.errors import CommandError

app = typer.Typer(name="kubectl bloomery", help="What kubectl itself has no command for.", no_args_is_help=True)
app.command("check")(check.check)
app.command("follow")(follow.follow)
app.command("predict")(predict.predict)
app.command("retrain")(retrain.retrain)
app.command("live")(live.live)
app.command("report")(report.report)
app.command("approve")(approve.approve)
app.command("suspects")(suspects.suspects)
app.command("captured")(capture.capture)
app.command("feedback")(feedback.feedback)
app.command("kit")(kit.kit)
app.command("version")(version.version)
app.add_typer(weights.app, name="weights")


@app.callback()
def bloomery() -> None:
    """What kubectl itself has no command for."""


def main() -> None:
    """Run the command in ``sys.argv``, and exit with its code."""
    # SIGTERM ends a command by an exception, as Ctrl+C does, so that it deletes its pods.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        app()
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
