"""Command blocks of README.md, docs/ and the examples' pages, and the tests that run them.

An HTML comment, invisible on the page, precedes each ``sh`` block and names its test:

    <!-- run by tests/component/x.py -->               the test runs the block of the page unchanged
    <!-- shown by tests/e2e/x.py: what differs -->     the test runs a similar command
    <!-- not run: why -->                              no test runs it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(
    r"^(?:<!-- *(?P<mark>[^>]*?) *-->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_MARK = re.compile(r"(?:run by (?P<run>\S+)|shown by (?P<shown>\S+?): .+|not run: .+)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        """Page and line, in the format of editors."""
        return f"{self.page}:{self.line}"

    @property
    def is_marked(self) -> bool:
        """Whether the comment has one of the three forms."""
        return _MARK.fullmatch(self.mark) is not None

    @property
    def test(self) -> str | None:
        """The test that the comment names."""
        match = _MARK.fullmatch(self.mark)
        return match and (match["run"] or match["shown"])

    @property
    def runs_as_it_stands(self) -> bool:
        """Whether a test runs the block unchanged."""
        return self.mark.startswith("run by ")


def pages() -> list[Path]:
    """The pages that users read."""
    return [page for places in ("*.md", "docs/*.md", "examples/*/*.md") for page in sorted(ROOT.glob(places))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's blocks in order."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        name = str(page.relative_to(ROOT))
        yield Block(name, line, match["language"], match["text"], match["mark"] or "")


def run_by(test: str) -> list[Block]:
    """Return the blocks that a test must run, by the test's path."""
    return [
        block
        for page in pages()
        if page.exists()
        for block in blocks(page)
        if block.mark == f"run by {Path(test).relative_to(ROOT)}"
    ]
