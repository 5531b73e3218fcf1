"""`python -m bloomery_trainer prepare|train|register CONFIG`, `tensorboard FOLDER`, `import FOLDER`, `weights`, …"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bloomery_trainer import config, launcher

_COMMANDS = {
    "prepare": "make a dataset version from images",
    "train": "train a classifier",
    "register": "register a trained model that MLflow could not take when it was made",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.command == "schema":
        print(config.schema(), end="")
        return 0
    if given.command == "tensorboard":
        from bloomery_trainer import tensorboard

        return tensorboard.run(given.folder, port=given.port, prefix=given.prefix)
    if given.command == "import":
        from bloomery_trainer import importing

        return importing.run(
            importing.Import(
                uri=given.uri,
                name=given.name,
                version_label=given.version_label,
                alias=given.alias,
                description=given.description,
            )
        )
    if given.command == "weights":
        from bloomery_trainer.models import weights_store

        return weights_store.run(vars(given), os.environ)
    return launcher.launch(given.command, given.config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bloomery_trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in _COMMANDS.items():
        command = commands.add_parser(name, help=does)
        command.add_argument("config", type=Path, help="configuration file (JSON)")
    board = commands.add_parser("tensorboard", help="show the curves of a training")
    board.add_argument("folder", help="the training's output folder (s3:// or file://)")
    board.add_argument("--port", type=int, default=6006)
    board.add_argument("--prefix", default="", help="path under which it is published")
    taken = commands.add_parser("import", help="take a model folder into MLflow's registry")
    taken.add_argument(
        "uri", help="the folder (s3:// or file://): a training's model, or an .onnx file with labels.txt"
    )
    taken.add_argument("--name", required=True, help="the registered model that gets another version")
    taken.add_argument("--version-label", help="people's own name of the version")
    taken.add_argument("--alias", help="an alias that is to point at it, such as champion")
    taken.add_argument("--description")
    _add_weights(commands)
    commands.add_parser("schema", help="print the JSON schema of the configuration")
    return parser


def _add_weights(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    weights = commands.add_parser("weights", help="list the published weights that the store has, or put a file there")
    actions = weights.add_subparsers(dest="action", required=True)
    for action in (actions.add_parser("list"), put := actions.add_parser("put", help="store the standard input")):
        action.add_argument("--uri", required=True, help="the store's folder of weights (s3:// or file://)")
    put.add_argument("name", help="the file's name")
    put.add_argument("--sha256", required=True, help="the hex digest of what comes")
    put.add_argument("--preset", help="whose weights it holds; left out, the file is one of torchvision's own")


if __name__ == "__main__":
    sys.exit(main())
