"""The command line: ``prepare``, ``train`` and ``register`` take a configuration file, the others arguments.

The code of a command is imported when it runs: PyTorch and MLflow take seconds to load, and not every command needs
them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from bloomery_model.certificates import trust_private_authorities
from bloomery_model.secret_variables import strip_variables
from bloomery_trainer import config, entrypoint

_CONFIGURED = {
    "prepare": "make a dataset version from images",
    "train": "train a classifier",
    "register": "register a trained model that MLflow could not take when it was made",
}

Subparsers = argparse._SubParsersAction


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    strip_variables(os.environ)
    trust_private_authorities(os.environ)
    run: Callable[[argparse.Namespace], int] = parsed.run
    return run(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bloomery_trainer", description="Train image classifiers from folders.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in _CONFIGURED.items():
        command = commands.add_parser(name, help=purpose)
        command.add_argument("config", type=Path, help="configuration file (JSON)")
        command.set_defaults(run=lambda parsed: entrypoint.launch(parsed.command, parsed.config))
    _add_tensorboard(commands)
    _add_import(commands)
    _add_weights(commands)
    schema = commands.add_parser("schema", help="print the JSON schema of the configuration")
    schema.set_defaults(run=_print_schema)
    return parser


def _add_tensorboard(commands: Subparsers[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("tensorboard", help="show the curves of a training")
    command.add_argument("folder", help="the training's output folder (s3:// or file://)")
    command.add_argument("--port", type=int, default=6006)
    command.add_argument("--prefix", default="", help="path under which it is published")
    command.set_defaults(run=_run_tensorboard)


def _add_import(commands: Subparsers[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("import", help="register a model folder with MLflow")
    command.add_argument(
        "uri", help="the folder (s3:// or file://): a training's model, or an .onnx file with labels.txt"
    )
    command.add_argument("--name", required=True, help="the registered model that gets another version")
    command.add_argument("--version-label", help="people's own name of the version")
    command.add_argument("--alias", help="an alias that is to point at it, such as champion")
    command.add_argument("--description")
    command.set_defaults(run=_run_import)


def _add_weights(commands: Subparsers[argparse.ArgumentParser]) -> None:
    weights = commands.add_parser("weights", help="list the published weights that the store has, or put a file there")
    actions = weights.add_subparsers(dest="action", required=True)
    for action in (actions.add_parser("list"), put := actions.add_parser("put", help="store the standard input")):
        action.add_argument("--uri", required=True, help="the store's folder of weights (s3:// or file://)")
        action.set_defaults(run=_run_weights)
    put.add_argument("name", help="the file's name")
    put.add_argument("--sha256", required=True, help="the hex digest of what comes")
    put.add_argument("--preset", help="whose weights it holds; left out, the file is one of torchvision's own")


def _print_schema(_: argparse.Namespace) -> int:
    print(config.schema(), end="")
    return 0


def _run_tensorboard(parsed: argparse.Namespace) -> int:
    from bloomery_trainer.commands import tensorboard

    return tensorboard.run(parsed.folder, port=parsed.port, prefix=parsed.prefix)


def _run_import(parsed: argparse.Namespace) -> int:
    from bloomery_trainer.commands import import_model

    return import_model.run(
        import_model.Import(
            uri=parsed.uri,
            name=parsed.name,
            version_label=parsed.version_label,
            alias=parsed.alias,
            description=parsed.description,
        )
    )


def _run_weights(parsed: argparse.Namespace) -> int:
    from bloomery_trainer.models import weights_store

    return weights_store.run(vars(parsed), os.environ)
