"""The command line: serve a model, pack an offline kit, start an unpacked one.

Each command imports its own modules: a server is to be ready in a second.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bloomery_model.certificates import trust_private_authorities
from bloomery_model.secret_variables import strip_variables
from bloomery_serving.kit.manifest import BASE, HOST, PORT, START, Flavour, Platform


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the process' exit code."""
    # ONNX Runtime reports its use to its maker, unless this is set before it is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    options = _parser().parse_args(arguments)
    strip_variables(os.environ)
    trust_private_authorities(os.environ)
    match options.command:
        case "kit":
            from bloomery_serving.kit import pack

            return pack.run(
                options.base,
                options.output,
                model=options.model,
                platform=options.platform,
                flavour=options.flavour,
            )
        case "start":
            from bloomery_serving.kit import start

            return start.run(options.folder, host=options.host, port=options.port)
        case "captures":
            from bloomery_serving.capture import command

            if options.action == "delete":
                return command.run_delete(options.ids)
            return command.run_list(days=options.days, first=options.first, pictures=options.pictures)
        case "batch":
            from bloomery_serving.batch import command as batch

            return batch.run()
    from bloomery_serving import server

    return server.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bloomery_serving",
        description="Serve the model that the environment names (MODEL_URI); the commands are for offline kits.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_kit(commands)
    _add_start(commands)
    _add_captures(commands)
    _add_batch(commands)
    return parser


def _add_kit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    kit = commands.add_parser(
        "kit",
        help="pack an offline kit",
        description="Pack a server and a model into one zip, for a machine without internet. The variables of a "
        "serving pod (AWS_…, MLFLOW_TRACKING_URI, SERVICE_NAME, DISPLAY_NAME, …) are taken from the environment.",
    )
    kit.add_argument("--platform", choices=get_args(Platform), default="linux")
    kit.add_argument("--flavour", choices=get_args(Flavour), default="cpu")
    kit.add_argument("--model", metavar="URI", help="the model's folder; default: MODEL_URI of the environment")
    kit.add_argument("--output", metavar="FILE", required=True, help="the zip to write; - is the standard output")
    kit.add_argument("--base", type=Path, default=BASE, help="folder with the parts of every kit (%(default)s)")


def _add_start(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    start = commands.add_parser(
        "start",
        prog=START,
        help="serve an unpacked kit",
        description="Serve the model of this kit, without internet.",
    )
    start.add_argument("--host", default=HOST, help="0.0.0.0 lets other machines in, without a key (%(default)s)")
    start.add_argument("--port", type=_port, default=PORT, help="(%(default)s)")
    start.add_argument("--folder", type=Path, default=Path(), help=argparse.SUPPRESS)


def _add_captures(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    captures = commands.add_parser(
        "captures",
        help="list and delete what a service captured",
        description="List and delete the captures of a service, whose variables (CAPTURE_URI, …) the environment has.",
    )
    actions = captures.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="print counts, and the least certain captures, as JSON")
    listing.add_argument("--days", type=int, default=7, help="the last so many days (%(default)s)")
    listing.add_argument("--first", type=int, default=20, help="so many of the least certain ones (%(default)s)")
    listing.add_argument("--pictures", action="store_true", help="with a small picture of each")
    deletion = actions.add_parser("delete", help="delete captures, with their records and labels")
    deletion.add_argument("ids", nargs="+", metavar="ID", help="the id of a prediction")


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    commands.add_parser(
        "batch",
        help="predict all images of a folder or an archive",
        description="Predict the images at SOURCE_URI by the model at MODEL_URI, and write the answers below "
        "OUTPUT_URI. All settings are variables of the environment; a run that was interrupted goes on.",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65535")
    return int(text)
