"""The page /upload in a real browser, at a prefix behind a gateway that takes it off."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.component.serving.browser import SCREENSHOTS, Visit, chromium, gateway
from tests.component.serving.conftest import SIDE, Colour, Server, StartServer, write_model
from tests.component.serving.test_explain import class_maps, write_explained

pytestmark = pytest.mark.feature("S4")

FLOWERS: dict[str, Colour] = {
    "玫瑰": (190, 30, 60),
    "向日葵": (240, 190, 30),
    "薰衣草": (140, 100, 200),
    "雏菊": (240, 240, 235),
    "绿叶/fern": (50, 140, 60),
    "鸢尾花": (50, 70, 190),
    "<b>罂粟</b>": (235, 90, 30),
    "夜来香": (30, 35, 40),
}
KEY = "d1f0-e2a7"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "default").write_text(hashlib.sha256(KEY.encode()).hexdigest())
    return folder


@pytest.fixture(scope="module")
def flowers(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("flowers")
    write_model(folder, labels=tuple(FLOWERS), colours=tuple(FLOWERS.values()))
    return start_server(
        model_uri=f"file://{folder}",
        display_name="花卉识别 & <flowers>",
        description="Recognises eight flowers.\n拍一张花的照片，看看它是什么。",
        model_name="flowers",
        model_version="4",
        variant="v1",
    )


@pytest.fixture(scope="module")
def explaining(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Server:
    folder = write_explained(tmp_path_factory.mktemp("explained"), class_maps().SerializeToString())
    return start_server(model_uri=f"file://{folder}", explain="true", api_keys_dir=str(keys))


@pytest.fixture(scope="module")
def guarded(start_server: StartServer, keys: Path) -> Server:
    return start_server(api_keys_dir=str(keys))


Open = Callable[..., Visit]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a server's upload page behind a gateway; at the end, it must have no errors and no requests to others."""
    closing: list[Callable[[], object]] = []
    visits: list[Visit] = []

    def open_page(server: Server, **context: object) -> Visit:
        proxy = gateway(server.url)
        service = proxy.__enter__()
        page = browser.new_context(**context).new_page()  # type: ignore[arg-type]
        closing.extend((page.context.close, lambda: proxy.__exit__(None, None, None)))
        visit = Visit(page, service)
        visit.open("/upload")
        visits.append(visit)
        return visit

    yield open_page
    for close in closing:
        close()
    for visit in visits:
        assert visit.strangers() == []
        # The browser itself notes every answer that is an error; those are the page's to show.
        assert [c for c in visit.complaints if "the server responded with a status of 4" not in c] == []


def flower(colour: Colour, name: str) -> FilePayload:
    """A picture of a flower, large and centred enough that its colour is that of the middle."""
    image = Image.new("RGB", (420, 300), tuple(min(255, c // 2 + 120) for c in colour))
    draw = ImageDraw.Draw(image)
    draw.rectangle((60, 0, 360, 300), colour)
    for x, y in ((150, 150), (270, 150), (210, 90), (210, 210)):
        draw.ellipse((x - 62, y - 62, x + 62, y + 62), tuple(max(0, c - 25) for c in colour))
    draw.ellipse((175, 115, 245, 185), tuple(min(255, c + 35) for c in colour))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return FilePayload(name=name, mimeType="image/jpeg", buffer=buffer.getvalue())


def choose(page: Page, *files: FilePayload) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose images").click()
    chooser.value.set_files(files)


def drop(page: Page, *files: FilePayload) -> None:
    """Drop files on the page, as from the desktop."""
    described = [[f["name"], f["mimeType"], base64.b64encode(f["buffer"]).decode()] for f in files]
    transfer = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const [name, type, data] of files) {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
          }
          return transfer;
        }""",
        described,
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def cards(page: Page) -> list[tuple[str, str]]:
    """File and label, or file and problem, of each card."""
    shown = []
    for card in page.locator(".card").all():
        words = card.locator(".label:visible, .problem:visible").inner_text()
        shown.append((card.locator(".file").inner_text(), words))
    return shown


def test_chosen_images_get_the_bars_of_the_likeliest_classes(open_page: Open, flowers: Server) -> None:
    page = open_page(flowers).page
    choose(page, flower(FLOWERS["玫瑰"], "rose.jpg"), flower(FLOWERS["向日葵"], "sun.jpg"))
    expect(page.locator(".label")).to_have_text(["玫瑰", "向日葵"])
    rose = page.locator(".card").first
    assert rose.locator("img").evaluate("image => image.naturalWidth") == 420
    assert rose.locator("img").get_attribute("alt") == "rose.jpg"
    top = rose.locator(".verdict > .scores li")
    expect(top).to_have_count(5)
    expect(top.first.locator(".name")).to_have_text("玫瑰")
    percent = float(re.sub(r"[^\d.]", "", top.first.locator(".percent").inner_text()))
    widths = [bar.evaluate("bar => bar.style.width") for bar in top.locator(".fill").all()]
    assert float(widths[0].removesuffix("%")) == pytest.approx(percent, abs=0.2)
    assert sorted(widths, key=lambda width: -float(width.removesuffix("%"))) == widths
    expect(page.get_by_role("status")).to_have_text("2 images classified")
    expect(rose.locator(".by")).to_have_text("flowers, version 4, variant v1")
    rose.get_by_text("All 8 classes").click()
    expect(rose.locator(".others .scores li")).to_have_count(8)


def test_dropped_images_are_classified_and_more_may_follow(open_page: Open, flowers: Server) -> None:
    page = open_page(flowers).page
    drop(page, flower(FLOWERS["鸢尾花"], "iris.jpg"))
    expect(page.locator(".label")).to_have_text(["鸢尾花"])
    drop(page, flower(FLOWERS["<b>罂粟</b>"], "罂粟.jpg"), flower(FLOWERS["绿叶/fern"], "fern.jpg"))
    expect(page.locator(".label")).to_have_text(["鸢尾花", "<b>罂粟</b>", "绿叶/fern"])
    page.get_by_role("button", name="Remove iris.jpg").click()
    expect(page.locator(".card")).to_have_count(2)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card")).to_have_count(0)


def test_head_is_the_services_own_words_and_never_markup(open_page: Open, flowers: Server) -> None:
    page = open_page(flowers).page
    expect(page.get_by_role("heading", level=1)).to_have_text("花卉识别 & <flowers>")
    expect(page.locator(".description")).to_contain_text("拍一张花的照片")
    expect(page.locator(".model")).to_have_text("Model flowers, version 4, variant v1")
    expect(page).to_have_title("花卉识别 & <flowers>")


def test_eleventh_image_is_refused_and_the_ten_stay(open_page: Open, flowers: Server) -> None:
    page = open_page(flowers).page
    ten = [flower(FLOWERS["雏菊"], f"{number}.jpg") for number in range(10)]
    drop(page, *ten, flower(FLOWERS["雏菊"], "10.jpg"))
    expect(page.get_by_role("alert")).to_have_text("Up to 10 images at a time, not 11. Choose fewer.")
    expect(page.locator(".card")).to_have_count(0)
    choose(page, *ten)
    expect(page.get_by_role("status")).to_have_text("10 images classified")
    choose(page, flower(FLOWERS["雏菊"], "10.jpg"))
    expect(page.get_by_role("alert")).to_contain_text("10 are here, and you chose 1 more")
    assert cards(page) == [(f"{number}.jpg", "雏菊") for number in range(10)]


@pytest.mark.parametrize("others", [[], ["玫瑰"]], ids=["alone", "among others"])
def test_file_that_is_no_image_says_so_itself(open_page: Open, flowers: Server, others: list[str]) -> None:
    page = open_page(flowers).page
    notes = FilePayload(name="notes.jpg", mimeType="image/jpeg", buffer=b"not an image")
    choose(page, notes, *(flower(FLOWERS[name], f"{name}.jpg") for name in others))
    expect(page.locator(".problem:visible")).to_have_text(
        "notes.jpg is not an image: JPEG, PNG, BMP and WebP are accepted."
    )
    assert cards(page)[1:] == [(f"{name}.jpg", name) for name in others]
    expect(page.get_by_role("alert")).to_be_hidden()


def test_too_large_image_is_refused_before_it_is_sent(open_page: Open, start_server: StartServer) -> None:
    visit = open_page(start_server(max_image_bytes=str(1024 * 1024)))
    large = FilePayload(name="large.jpg", mimeType="image/jpeg", buffer=bytes(2 * 1024 * 1024))
    choose(visit.page, large)
    expect(visit.page.locator(".problem:visible")).to_have_text("large.jpg has 2.0 MB; an image may have 1 MB.")
    assert not any(url.endswith("/predict") for url in visit.requested)


def test_page_asks_for_a_key_and_reports_a_wrong_one(open_page: Open, guarded: Server) -> None:
    page = open_page(guarded).page
    choose(page, flower((200, 20, 20), "red.jpg"))
    expect(page.get_by_role("alert")).to_have_text("Enter the key of this service first.")
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    field.fill("wrong")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("This is not a key of the service.")
    assert field.get_attribute("aria-invalid") == "true"
    field.fill(KEY)
    field.press("Enter")
    expect(page.locator(".label")).to_have_text(["red"])
    expect(page.get_by_role("alert")).to_be_hidden()


def test_key_is_kept_for_the_tab_only(open_page: Open, guarded: Server) -> None:
    visit = open_page(guarded)
    visit.page.get_by_label("Key", exact=True).fill(KEY)
    visit.page.reload()
    expect(visit.page.get_by_label("Key", exact=True)).to_have_value(KEY)
    assert visit.page.evaluate("localStorage.length") == 0
    assert visit.page.context.cookies() == []
    other = visit.page.context.new_page()
    other.goto(f"{visit.service}/upload")
    expect(other.get_by_label("Key", exact=True)).to_have_value("")
    assert not any(KEY in url for url in visit.requested)


def test_service_without_keys_asks_for_none(open_page: Open, flowers: Server) -> None:
    expect(open_page(flowers).page.get_by_label("Key", exact=True)).to_be_hidden()


def test_busy_service_is_reported_and_tried_again_by_hand(open_page: Open, start_server: StartServer) -> None:
    page = open_page(start_server(queue_size="0")).page
    choose(page, flower((200, 20, 20), "red.jpg"))
    expect(page.get_by_role("alert")).to_contain_text("try again in a second")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_page_may_only_talk_to_its_own_service(flowers: Server) -> None:
    answer = flowers.client.get("/upload")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", answer.text)


@pytest.mark.parametrize("path", ["/upload", "/upload/upload.js", "/upload/upload.css", "/docs", "/openapi.json"])
def test_pages_need_no_key(guarded: Server, path: str) -> None:
    assert guarded.client.get(path).status_code == 200
    assert guarded.client.post(path).status_code == 401


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_page_is_accessible(open_page: Open, flowers: Server, scheme: str, width: int) -> None:
    """A screenshot of it is stored."""
    page = open_page(flowers, color_scheme=scheme, viewport={"width": width, "height": 900}).page
    names = ["玫瑰", "向日葵", "薰衣草", "鸢尾花"]
    broken = FilePayload(name="a very long name of some notes.jpg", mimeType="image/jpeg", buffer=b"no image")
    drop(page, *(flower(FLOWERS[name], f"{name}.jpg") for name in names), broken)
    expect(page.get_by_role("status")).to_have_text("4 images classified, 1 could not be read")
    page.locator(".fill").first.evaluate("bar => Promise.all(bar.getAnimations().map((a) => a.finished))")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"upload-{scheme}-{width}.png", full_page=True)
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.feature("T28")
def test_a_button_shows_where_the_model_looked_and_the_image_again(open_page: Open, explaining: Server) -> None:
    page = open_page(explaining).page
    page.get_by_label("Key").fill(KEY)
    choose(page, flower((30, 30, 200), "blue.jpg"))
    expect(page.locator(".label")).to_have_text("蓝")
    image = page.locator(".card img")
    original = image.get_attribute("src")

    page.get_by_role("button", name="Where did it look?").click()

    again = page.get_by_role("button", name="Show the image")
    expect(again).to_be_visible()
    expect(image).to_have_attribute("alt", "blue.jpg: bright where the model found 蓝")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == SIDE
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "upload-explained.png", full_page=True)
    again.click()
    expect(image).to_have_attribute("src", original or "")
    expect(image).to_have_attribute("alt", "blue.jpg")


@pytest.mark.feature("S17", "T28")
def test_an_unknown_image_is_explained_by_its_likeliest_class(
    open_page: Open, start_server: StartServer, tmp_path: Path
) -> None:
    folder = write_explained(tmp_path / "explained", class_maps().SerializeToString())
    page = open_page(start_server(model_uri=f"file://{folder}", explain="true", answer_min_confidence="1.0")).page
    choose(page, flower((128, 128, 128), "grey.jpg"))
    expect(page.locator(".label")).to_have_text("Not sure")

    page.get_by_role("button", name="Where did it look?").click()

    expect(page.get_by_role("button", name="Show the image")).to_be_visible()


@pytest.mark.feature("T28")
def test_a_service_without_explanations_has_no_button_for_them(open_page: Open, flowers: Server) -> None:
    page = open_page(flowers).page
    choose(page, flower(FLOWERS["玫瑰"], "rose.jpg"))
    expect(page.locator(".label")).to_have_text("玫瑰")

    expect(page.get_by_role("button", name="Where did it look?")).to_have_count(0)


@pytest.mark.feature("S17")
def test_an_unknown_image_says_not_sure_above_its_scores(
    open_page: Open, start_server: StartServer, tmp_path: Path
) -> None:
    write_model(tmp_path, labels=tuple(FLOWERS), colours=tuple(FLOWERS.values()))
    page = open_page(start_server(model_uri=f"file://{tmp_path}", answer_min_confidence="0.9")).page
    choose(page, flower(FLOWERS["玫瑰"], "rose.jpg"), flower((128, 128, 128), "grey.jpg"))
    expect(page.locator(".label")).to_have_text(["玫瑰", "Not sure"])
    unknown = page.locator(".card").nth(1)
    expect(unknown.locator(".verdict > .scores li")).to_have_count(5)
    expect(page.get_by_role("status")).to_have_text("2 images classified")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "unknown.png", full_page=True)
