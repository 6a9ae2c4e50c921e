"""The report as a person uses it: opened from disk, filtered, clicked, played, read out, printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from pipeline.engine.cuts import cut_here
from pipeline.lake.query import open_lake
from pipeline.report.page import page_data, render
from pipeline.report.report import write_report
from tests.browser.conftest import Wait
from tests.lakes import lake_of_segments
from tests.shown import NAME_OF_EVIL


@pytest.fixture(scope="module")
def report(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report") / "out"
    written = write_report(str(lake), folder, cut_here)
    assert (written.n_segments, written.n_clips, written.without_clip) == (18, 3, {})
    return (folder / "index.html").as_uri()


def summary(page: Page) -> str:
    return page.inner_text("#summary")


def test_it_filters_by_label_score_length_video_and_novelty(page: Page, report: str) -> None:
    page.goto(report)
    assert summary(page) == "18 segments in 3 videos, 18.0 s"
    page.click("#filters button:has-text('sit')")
    assert summary(page).startswith("12 of 18 segments")
    page.click("#filters button:has-text('walk')", modifiers=["Shift"])
    assert summary(page).startswith("6 of 18 segments")
    page.click("#filters button:has-text('walk')", modifiers=["Shift"])
    assert summary(page).startswith("18 segments")
    page.fill("#filter-text", "140100")
    assert summary(page).startswith("6 of 18 segments")
    page.focus("#filter-text")
    page.keyboard.press("Escape")
    assert summary(page).startswith("18 segments")
    assert page.input_value("#filter-text") == ""
    for name, value, left in (("score", "0.82", 4), ("length", "2.5", 0), ("novelty", "0.15", 6)):
        page.fill(f"#filter-{name}", value)
        assert summary(page).startswith(f"{left} of 18 segments"), name
        page.fill(f"#filter-{name}", "0")
    assert summary(page).startswith("18 segments")


def test_a_click_in_the_timeline_plays_the_moment(page: Page, report: str, until: Wait) -> None:
    page.goto(report)
    # The first lane, of the first video's first person; from 2 to 4 s that one sits.
    box = page.locator("#timeline-canvas").bounding_box()
    assert box
    page.mouse.click(box["x"] + 128 + (box["width"] - 144) * 2.5 / 6, box["y"] + 24 + 26 + 10)
    until("document.getElementById('video').currentTime > 2.6")
    assert page.inner_text("#facts dd >> nth=0") == "sit"
    assert page.inner_text("#facts dd >> nth=1") == "person 1"
    until("document.getElementById('video').currentTime > 3")
    page.keyboard.press("Space")
    assert page.evaluate("document.getElementById('video').paused")


def test_an_avi_that_no_browser_plays_is_played(page: Page, report: str, until: Wait) -> None:
    page.goto(report)
    page.fill("#filter-text", ".avi")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    until("document.getElementById('video').currentTime > 0.3")


def test_boxes_are_drawn_over_the_picture_and_can_be_switched_off(page: Page, report: str, until: Wait) -> None:
    page.goto(report)
    page.keyboard.press("Enter")
    drawn = """(() => { const c = document.getElementById('overlay');
        const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 3; i < p.length; i += 4) n += p[i] > 0; return n; })()"""
    until(f"document.getElementById('video').currentTime > 0.2 && {drawn} > 500")
    page.keyboard.press("Space")
    for kind in ("Boxes", "Poses", "Labels"):
        before = page.evaluate(drawn)
        page.click(f"#overlays button:has-text('{kind}')")
        assert page.evaluate(drawn) < before
    assert page.evaluate(drawn) == 0


def test_the_table_is_the_same_in_words(page: Page, report: str, until: Wait) -> None:
    page.goto(report)
    page.keyboard.press("2")
    assert page.get_attribute("#grid", "aria-rowcount") == "19"
    page.click("#grid-head button:has-text('score')")
    page.click("#grid-head button:has-text('score')")
    first = page.locator("#grid-space .row >> nth=0")
    assert "0.90" in first.inner_text()
    assert page.get_attribute("#grid-head [aria-sort]", "aria-sort") == "descending"
    until("document.querySelector('.row img').naturalWidth === 120")
    page.focus("#grid")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert page.locator(".row[aria-selected=true]").count() == 1
    assert page.get_attribute("#grid", "aria-activedescendant")
    page.keyboard.press("Enter")
    until("!document.getElementById('video').paused")


def test_the_timeline_goes_by_keys_and_says_where_it_is(page: Page, report: str) -> None:
    page.goto(report)
    page.focus("#timeline-canvas")
    said = lambda: page.text_content("#spoken") or ""  # noqa: E731
    page.keyboard.press("ArrowRight")
    assert said().startswith("sit, person 1, 0:02.0 to 0:04.0, score 0.85")
    page.keyboard.press("ArrowDown")
    assert said().startswith("sit, person 2")
    scale = page.evaluate("TIMELINE.scale()")
    page.keyboard.press("+")
    assert page.evaluate("TIMELINE.scale()") == pytest.approx(1.6 * scale)
    page.keyboard.press("0")
    assert page.evaluate("TIMELINE.scale()") == pytest.approx(scale)
    page.mouse.move(700, 300)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function(f"TIMELINE.scale() > {1.2 * scale}")


def test_names_are_never_markup(page: Page, report: str) -> None:
    page.goto(report)
    for key in "1234":
        page.keyboard.press(key)
    assert page.evaluate("window.evil === undefined")
    assert page.locator("#filters .chip", has_text="<img").count() == 1
    page.keyboard.press("2")
    assert page.locator(".row", has_text=NAME_OF_EVIL).count() == 1
    assert page.locator(".row img[onerror]").count() == 0


def test_names_that_look_like_marks_of_the_page_are_names(page: Page, tmp_path: Path) -> None:
    uris = {"/v/{script}{data}.mp4": 4.0, "/v/{title}.mp4": 4.0}
    segments = [{"uri": uri, "segment_id": uri, "label": "{style}", "score": score, "start_s": 0.0, "end_s": 2.0}
                for uri, score in zip(uris, (float("nan"), 0.5), strict=True)]  # fmt: skip
    reader = open_lake(str(lake_of_segments(tmp_path / "lake", uris, segments)))
    path = tmp_path / "index.html"
    path.write_text(render(page_data(reader, reader.segments(), "{data}")), encoding="utf-8")
    page.goto(path.as_uri())
    assert page.inner_text("#title") == "{data}"
    page.keyboard.press("2")
    assert "{script}{data}.mp4" in page.inner_text("#grid-space")


def test_totals_and_failures(page: Page, report: str) -> None:
    page.goto(report)
    page.keyboard.press("3")
    words = page.inner_text("#totals")
    assert "walk\t6\t12.0 s\t33.3 %\t2.0 s" in words
    assert "Segments by hour of the day (UTC)" in words
    assert page.get_attribute("#totals .hours > div >> nth=15", "aria-label") == "15 to 16 h: 6 segments"
    assert page.get_attribute("#totals .bar >> nth=0", "aria-label") == "sit 33 %, walk 33 %, fall 33 %"
    page.keyboard.press("4")
    assert "a packet is damaged" in page.inner_text("#failures")
    assert page.inner_text("#tab-failures") == "Failures (1)"


def test_light_dark_and_print(chromium: Browser, page: Page, report: str) -> None:
    page.goto(report)
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.click("#theme")
    dark = page.evaluate(back)
    assert light != dark
    with chromium.new_context(color_scheme="dark") as context:
        other = context.new_page()
        other.goto(report)
        assert other.evaluate(back) == dark
    assert len(page.pdf()) > 10_000
    page.emulate_media(media="print")
    assert not page.is_visible("#side")


def test_help_names_the_keys(page: Page, report: str) -> None:
    page.goto(report)
    page.keyboard.press("?")
    assert "next, previous segment" in page.inner_text("#help")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")


def test_ten_thousand_segments_are_a_few_rows(page: Page, tmp_path: Path, until: Wait) -> None:
    segments = [
        {"uri": f"/v/{n // 50:03d}.mp4", "segment_id": f"{n:06d}", "label": f"label {n % 7}", "score": n % 100 / 100,
         "track_id": n % 5, "start_s": 2.0 * (n % 50), "end_s": 2.0 * (n % 50) + 1.5}
        for n in range(10_000)
    ]  # fmt: skip
    lake = lake_of_segments(tmp_path / "lake", {f"/v/{n:03d}.mp4": 100.0 for n in range(200)}, segments)
    reader = open_lake(str(lake))
    path = tmp_path / "index.html"
    path.write_text(render(page_data(reader, reader.segments(), "many")), encoding="utf-8")
    page.goto(path.as_uri())
    assert summary(page).startswith("10000 segments in 200 videos")
    page.keyboard.press("2")
    assert page.locator(".row").count() < 60
    page.evaluate("document.getElementById('grid-scroll').scrollTop = 9900 * 44")
    until("[...document.querySelectorAll('.row')].some((row) => row.getAttribute('aria-rowindex') === '9905')")
    assert page.locator(".row").count() < 60
    page.keyboard.press("1")
    page.evaluate("document.getElementById('timeline-scroll').scrollTop = 1e7")
    assert page.evaluate("document.getElementById('timeline-scroll').scrollTop") > 20_000
