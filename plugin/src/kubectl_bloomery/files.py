"""Files that commands write for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubectl_bloomery.kubectl import CommandError


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Say in words why a file can not be written; the block does nothing else.

    Raises:
        CommandError: it can not be.
    """
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path} can not be written: {error.strerror or error}.") from error
