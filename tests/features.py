"""`make features`: the rows of docs/features.md with the tests that show them; fails where a row has none."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO

import pytest

from dev.paths import ROOT

ROWS = ROOT / "docs" / "features.md"
REQUIRED = ("D", "O", "S", "T")
"""The rows that must have a test, by their first letter."""

_ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \|$", re.MULTILINE)


class Collected:
    """A pytest plugin that notes which test carries which row's mark."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Called by pytest once all tests are known."""
        for item in session.items:
            for mark in item.iter_markers("feature"):
                for row in mark.args:
                    # Parametrised tests are one test to a reader.
                    self.tests[row].add(item.nodeid.partition("[")[0])


def read_rows(text: str) -> dict[str, str]:
    """The rows of the tables: what each says a user can do."""
    return dict(_ROW.findall(text))


def table(rows: Mapping[str, str], tests: Mapping[str, Iterable[str]]) -> str:
    """The rows, each with the suites and tests that show it."""
    lines = []
    for row, what in rows.items():
        shown = sorted(tests.get(row, ()))
        suites = sorted({test.split("/")[1] for test in shown})
        lines.append(f"{row:4} {what}\n     {', '.join(suites) or 'NO TEST'}")
        lines += [f"       {test.removeprefix('tests/')}" for test in shown]
    return "\n".join(lines)


def main() -> int:
    """Prints the table; 1 where a row has no test or a test shows a row that does not exist."""
    collected = Collected()
    with redirect_stdout(StringIO()) as said:
        code = pytest.main(["--collect-only", "-qq", str(ROOT / "tests")], [collected])
    if code != pytest.ExitCode.OK:
        print(said.getvalue()[-3000:])
        return 1
    rows = read_rows(ROWS.read_text(encoding="utf-8"))
    print(table(rows, collected.tests))
    missing = [row for row in rows if row.startswith(REQUIRED) and not collected.tests.get(row)]
    unknown = sorted(collected.tests.keys() - rows.keys())
    print(f"{sum(row in collected.tests for row in rows)} of {len(rows)} rows have tests")
    if missing:
        print(f"without a test: {', '.join(missing)}")
    if unknown:
        print(f"marked on tests but not in {ROWS.relative_to(ROOT)}: {', '.join(unknown)}")
    return 1 if missing or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
