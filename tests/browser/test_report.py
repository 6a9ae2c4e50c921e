"""The report as a person uses it: opened from disk, filtered, clicked, played, read out, printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from pipeline.engine.cuts import cut_here
from pipeline.lake.query import open_lake
from pipeline.lake.search import Hit
from pipeline.report.page import page_data, render
from pipeline.report.report import write_hits, write_report
from tests.browser.conftest import Wait
from tests.engine.test_forecast import straight_on, tell
from tests.lakes import lake_of_segments
from tests.shown import NAME_OF_EVIL, make_lake, video_id

# How many pixels are drawn over the picture.
DRAWN = """(() => { const c = document.getElementById('overlay');
    const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 3; i < p.length; i += 4) n += p[i] > 0; return n; })()"""


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
    until(f"document.getElementById('video').currentTime > 0.2 && {DRAWN} > 500")
    page.keyboard.press("Space")
    for kind in ("Boxes", "Poses", "Labels"):
        before = page.evaluate(DRAWN)
        page.click(f"#overlays button:has-text('{kind}')")
        assert page.evaluate(DRAWN) < before
    assert page.evaluate(DRAWN) == 0


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


def test_on_paper_are_all_lanes_and_the_totals_black_on_white(page: Page, report: str) -> None:
    """Of a window in which three lanes have room, in the dark, with another view open."""
    page.set_viewport_size({"width": 1400, "height": 300})
    page.goto(report)
    page.click("#theme")
    shown = page.evaluate("TIMELINE.scale()")
    page.keyboard.press("2")
    # The first frame lays out the other view; then the page is told that the timeline has no size any more.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.pdf()
    assert (page.evaluate("TIMELINE.scale()"), page.evaluate("document.documentElement.dataset.theme")) == (
        shown,
        "dark",
    )
    page.emulate_media(media="print")
    for part, is_there in (("#side", False), ("#table", False), ("#timeline-print", True), ("#totals", True)):
        assert page.is_visible(part) == is_there, part
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # Three videos of two people each, at two pixels of the screen for each of the picture.
    (height,) = page.evaluate("[...document.querySelectorAll('#timeline-print canvas')].map((each) => each.height)")
    assert height == 2 * (24 + 3 * (26 + 2 * 20) + 3 * 6)
    # A pixel beside the lanes.
    corner = "[...document.querySelector('#timeline-print canvas').getContext('2d').getImageData(4, 4, 1, 1).data]"
    assert page.evaluate(corner) == [255, 255, 255, 255]


@pytest.mark.parametrize("width", [420, 800])
def test_in_a_narrow_window_the_player_stays_in_sight(page: Page, report: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(report)
    page.keyboard.press("2")
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert page.evaluate("window.scrollY") > 100
    row = page.locator(".row >> nth=3")
    row.click()
    assert row.get_attribute("aria-selected") == "true"
    for part in ("#screen", "#play"):
        box = page.locator(part).bounding_box()
        assert box
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= 800, part
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_a_search_finds_stands_in_its_order(page: Page, lake: Path, tmp_path: Path) -> None:
    hits = [Hit(likeness, video_id(n), f"{n}", 1.0, 3.0, 1, "", ("sit",)) for likeness, n in ((0.9, 2), (0.4, 0))]
    uris = open_lake(str(lake)).table("videos")["uri"].to_pylist()
    hits = [replace(hit, uri=uris[int(hit.uri)]) for hit in hits]
    page.goto(write_hits(str(lake), hits, "like x@1", tmp_path, cut_here).path.as_uri())
    assert page.is_visible("#table")
    assert page.inner_text("#grid-head [aria-sort=descending]") == "likeness"
    assert [text.split()[-1] for text in page.locator(".row").all_inner_texts()] == ["0.90", "0.40"]
    assert page.locator(".row[aria-selected=true]").inner_text().startswith("20240503_140200")
    page.keyboard.press("j")
    assert "likeness 0.40" in (page.text_content("#spoken") or "")


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


def test_what_was_foretold_is_drawn_and_can_be_left_out(tmp_path: Path, page: Page, until: Wait) -> None:
    lake = make_lake(tmp_path / "shown", n_videos=1)
    tell(lake, straight_on(tmp_path))
    write_report(str(lake), tmp_path / "out", cut_here)
    page.goto((tmp_path / "out" / "index.html").as_uri())
    page.keyboard.press("Enter")
    until("document.getElementById('video').currentTime > 0.2")
    page.keyboard.press("Space")
    # Of the first 2.8 s nothing is foretold.
    for kind in ("Boxes", "Poses", "Labels"):
        page.click(f"#overlays button:has-text('{kind}')")
    assert page.evaluate(DRAWN) == 0
    page.evaluate("document.getElementById('video').currentTime = 4.0")
    until(f"{DRAWN} > 500")
    page.click("#overlays button:has-text('Paths')")
    assert page.evaluate(DRAWN) == 0
