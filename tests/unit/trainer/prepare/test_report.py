"""The report of a dataset version."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Prepare = Callable[..., Any]
WriteImage = Callable[..., None]


def page_of(message: dict[str, Any]) -> str:
    assert message["report"] == f"{message['uri']}/report.html"
    return Path(message["report"].removeprefix("file://")).read_text(encoding="utf-8")


@pytest.mark.feature("D7")
@pytest.mark.feature("D6")
def test_report_shows_counts_pictures_and_ignored_files(
    prepare: Prepare, write_image: WriteImage, flowers: Path
) -> None:
    (flowers / "roses").rename(flowers / "玫瑰")
    write_image(flowers / "玫瑰" / "small.png", size=(20, 20))
    result = prepare(flowers, split={"validation": 0.2, "test": 0.1})
    page = page_of(result.message)

    row = re.search(r"<tr><td class=\"name\">玫瑰</td>(.*?)</tr>", page, re.DOTALL)
    assert row is not None
    roses = result.message["classes"][1]
    assert re.findall(r">(\d+)</td>", row.group(1)) == [
        "25", *(str(roses[split]) for split in ("train", "validation", "test"))
    ]  # fmt: skip
    assert page.partition("<h2>Odd pictures")[0].count("data:image/jpeg;base64,") == 12
    assert re.search(r"玫瑰/small\.png</td><td class=\"name\">TooSmall", page)
    assert f"file://{flowers}" in page
    assert result.message["version"] in page


@pytest.mark.feature("D13")
def test_report_has_display_name_and_description(prepare: Prepare, flowers: Path) -> None:
    result = prepare(flowers, displayName="花卉 2026", description="Все цветы\nсада")
    page = page_of(result.message)

    assert "<h1>花卉 2026</h1>" in page
    assert "Все цветы\nсада" in page


def test_names_are_escaped_in_the_page(prepare: Prepare, flowers: Path) -> None:
    evil = "<script>alert(1)</script>"
    (flowers / "roses" / f"{evil.replace('/', '')}.png").write_bytes(b"x")
    page = page_of(prepare(flowers, displayName=evil, description=evil).message)

    assert "<script" not in page
    assert html.escape(evil) in page


def test_report_loads_nothing_from_elsewhere(prepare: Prepare, flowers: Path) -> None:
    page = page_of(prepare(flowers).message)

    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "url(" not in page


def test_page_with_a_thousand_classes_stays_small(prepare: Prepare, write_image: WriteImage, tmp_path: Path) -> None:
    for number in range(1000):
        for image in range(2):
            write_image(
                tmp_path / "source" / f"class {number}" / f"{image}.jpg", size=(32, 32), seed=2 * number + image
            )
    result = prepare(tmp_path / "source", rules={"minImagesPerClass": 2}, split={"validation": 0.5})
    page = page_of(result.message)

    assert page.partition("<h2>Odd pictures")[0].count("data:image/jpeg;base64,") == 1000
    assert len(page) < 6_000_000


@pytest.mark.feature("D7")
def test_dataset_is_ready_without_mlflow(prepare: Prepare, flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    result = prepare(flowers)

    assert result.code == 0
    assert result.message["mlflow"] == {"experimentId": None, "runId": None}
