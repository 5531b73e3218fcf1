"""`python -m bloomery_trainer prepare|train CONFIG`, or `schema` for the JSON schema of CONFIG."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bloomery_trainer import config, launcher


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    parser = argparse.ArgumentParser(prog="bloomery_trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in (("prepare", "make a dataset version from images"), ("train", "train a classifier")):
        command = commands.add_parser(name, help=does)
        command.add_argument("config", type=Path, help="configuration file (JSON)")
    commands.add_parser("schema", help="print the JSON schema of the configuration")
    given = parser.parse_args(arguments)
    if given.command == "schema":
        print(config.schema(), end="")
        return 0
    return launcher.launch(given.command, given.config)


if __name__ == "__main__":
    sys.exit(main())
