"""Figures of the trainer's progress, read from its sources: what an operator or Prometheus may see of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.docs_blocks import ROOT

PACKAGES = {"prepare": ("prepare",), "train": ("commands", "engine", "publish", "tracking")}
"""The trainer's packages that report the figures of each kind of work."""


def progress_figures(kind: str) -> Iterator[str]:
    """Yield the name of every figure that ``progress.update`` sets, some of them more than once."""
    sources = ROOT / "trainer-image" / "src" / "bloomery_trainer"
    for path in (path for package in PACKAGES[kind] for path in (sources / package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.search(r"progress\.update$", ast.unparse(node.func)):
                yield from (keyword.arg for keyword in node.keywords if keyword.arg)
