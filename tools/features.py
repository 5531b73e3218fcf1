"""Table of docs/features.md's rows and their tests (``make features``); fails if a row has no test."""

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


class FeatureCollector:
    """Pytest plugin that collects the tests of each row, by their ``feature`` markers."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Collect the markers of all tests; pytest calls this after the collection."""
        for item in session.items:
            for mark in item.iter_markers("feature"):
                for row in mark.args:
                    # The cases of a parametrised test count as one test.
                    self.tests[row].add(item.nodeid.partition("[")[0])


def read_rows(text: str) -> dict[str, str]:
    """Return the rows of the tables: the sentence of each row's id."""
    return dict(_ROW.findall(text))


def table(rows: Mapping[str, str], tests: Mapping[str, Iterable[str]]) -> str:
    """Return the rows, each with its suites and tests."""
    lines = []
    for row, sentence in rows.items():
        row_tests = sorted(tests.get(row, ()))
        suites = sorted({test.split("/")[1] for test in row_tests})
        lines.append(f"{row:4} {sentence}\n     {', '.join(suites) or 'NO TEST'}")
        lines += [f"       {test.removeprefix('tests/')}" for test in row_tests]
    return "\n".join(lines)


def main() -> int:
    """Print the table; return 1 if a row has no test, or a test names a row that does not exist."""
    collected = FeatureCollector()
    with redirect_stdout(StringIO()) as output:
        code = pytest.main(["--collect-only", "-qq", str(ROOT / "tests")], [collected])
    if code != pytest.ExitCode.OK:
        print(output.getvalue()[-3000:])
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
