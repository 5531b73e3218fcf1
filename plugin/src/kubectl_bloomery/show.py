"""What the commands print: tables for people, JSON for programs. Rich is imported only where something is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


_NEVER_FOLDED = 10_000
"""Columns of what is no terminal: a file or another program wants its lines whole."""


def console() -> Console:
    """Return the standard output."""
    return _console(stderr=False)


def errors() -> Console:
    """Return the standard error output, where what is no result goes."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=_NEVER_FOLDED)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table as kubectl draws them: no lines, numbers to the right."""
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    for number, column in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[number], int | float) for row in cells)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        # Names of people's things are no markup.
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return drawn


def print_json(document: Any) -> None:
    """Print a document for programs, letters of any script as they are."""
    print(json.dumps(document, ensure_ascii=False, indent=2))
