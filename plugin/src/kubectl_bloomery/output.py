"""Output of the commands: tables for people, JSON for programs. Rich is imported only when something is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNWRAPPED_COLUMNS = 10_000
"""Width for anything but a terminal: a file or another program needs unbroken lines."""


def console() -> Console:
    """Return the console of the standard output."""
    return _console(stderr=False)


def error_console() -> Console:
    """Return the console of the standard error output, for errors and progress."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    terminal = Console(stderr=stderr, highlight=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, highlight=False, width=_UNWRAPPED_COLUMNS)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table in kubectl's style: without lines, numbers aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for number, column in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[number], int | float) for row in cells)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        # Text keeps Rich from reading users' names as markup.
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return drawn


def print_json(document: Any) -> None:
    """Print a document for programs, without escaping letters of other scripts."""
    print(json.dumps(document, ensure_ascii=False, indent=2))
