"""The command blocks of README.md, docs/ and the examples' pages, and what each says of the test that runs it.

Each ``sh`` block has an HTML comment right before it, which a reader of the page does not see:

    <!-- run by tests/component/x.py -->               the test takes the block from the page and runs it as it stands
    <!-- shown by tests/e2e/x.py: what differs -->     the test does the same, in its own words
    <!-- not run: why -->                              no test does
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
        """Where it is, as editors take it."""
        return f"{self.page}:{self.line}"

    @property
    def is_marked(self) -> bool:
        """Whether its comment is one of the three."""
        return _MARK.fullmatch(self.mark) is not None

    @property
    def test(self) -> str | None:
        """The test that runs or shows it."""
        found = _MARK.fullmatch(self.mark)
        return found and (found["run"] or found["shown"])

    @property
    def runs_as_it_stands(self) -> bool:
        """Whether a test takes it from the page."""
        return self.mark.startswith("run by ")


def pages() -> list[Path]:
    """The pages that users read."""
    return [page for places in ("*.md", "docs/**/*.md", "examples/*/*.md") for page in sorted(ROOT.glob(places))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's blocks in their order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        name = str(page.relative_to(ROOT))
        yield Block(name, line, found["language"], found["text"], found["mark"] or "")


def run_by(test: str) -> list[Block]:
    """Return the blocks that a test has to run, by the test's path from the root."""
    return [
        block
        for page in pages()
        if page.exists()
        for block in blocks(page)
        if block.mark == f"run by {Path(test).relative_to(ROOT)}"
    ]
