"""The evaluation report in a real browser: few and many classes, names in Chinese, a phone's width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from bloomery_trainer.engine.suspects import Suspect, Suspects
from bloomery_trainer.reports.evaluation import write_reports
from tests.component.serving.browser import SCREENSHOTS, chromium
from tests.unit.trainer.reports.conftest import About, about  # noqa: F401 - a fixture

pytestmark = pytest.mark.feature("D16")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 800}
CHINESE = ("玫瑰", "美食/红烧狮子头配高汤娃娃菜与手工拉面", "向日葵")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(
    "classes", [CHINESE, tuple(f"{CHINESE[n % 3]}{n}" for n in range(300))], ids=["3-classes", "300-classes"]
)
def test_page_with_suspects_fits_the_window(
    browser: Browser,
    about: About,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
    classes: tuple[str, ...],
    viewport: dict[str, int],
) -> None:
    few = [700, 60, *[120] * (len(classes) - 2)]
    metadata = about(
        classes, train=few if len(classes) == 3 else 10, validation=20 if len(classes) == 3 else 4, wrong=3,
        key="train/玫瑰/1234567890_ein sehr langer Dateiname_{}.jpg".format,
        last_epoch={"epoch": 30, "top1": 0.85}, still_improving=True,
    )  # fmt: skip
    images = len(metadata.dataset.splits["train"])
    items = tuple(
        Suspect(index=n, given_class=0, likely_class=1 + n % 2, given_score=0.01, likely_score=0.5 + n % 5 / 10)
        for n in range(120)
    )
    suspects = Suspects(items=items, examined=images, images=images + 10, is_from_scratch=True)
    write_reports(tmp_path, replace(metadata, suspects=suspects))
    page = browser.new_page(viewport=viewport)
    page.goto((tmp_path / "report.html").as_uri())

    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    figures = page.locator("h2:has-text('Suspected labels') ~ .pictures >> nth=0").locator("figure")
    assert figures.count() == 100
    assert page.locator("pre").last.is_visible()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{request.node.callspec.id}.png", full_page=True)
