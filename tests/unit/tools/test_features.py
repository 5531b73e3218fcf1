"""The table of what users can do, and its tests."""

from __future__ import annotations

from pathlib import Path

from tools.features import ROWS, read_rows, table


def test_every_row_of_the_page_is_read() -> None:
    rows = read_rows(ROWS.read_text(encoding="utf-8"))

    assert [row for row in rows if row.startswith("D")] == [f"D{n}" for n in range(1, 18)]
    assert sorted(row for row in rows if row.startswith("T")) == sorted(f"T{n}" for n in range(1, 30))


def test_rows_show_their_suites_or_the_lack_of_tests() -> None:
    shown = table({"D1": "train", "D2": "split"}, {"D1": ["tests/unit/a.py::test_x", "tests/e2e/b.py::test_y"]})

    assert "D1   train\n     e2e, unit\n       e2e/b.py::test_y\n       unit/a.py::test_x" in shown
    assert "D2   split\n     NO TEST" in shown


def test_no_row_is_named_twice() -> None:
    text = Path(ROWS).read_text(encoding="utf-8")

    assert all(text.count(f"| {row} |") == 1 for row in read_rows(text))
