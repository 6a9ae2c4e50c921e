"""A review by the keyboard alone, in a real browser, against the real command; every answer outlives its death."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from pipeline.training.answers import Answer, read_answers
from tests.browser.conftest import Wait
from tests.reviews import review
from tests.test_cli import here, text


def test_answers_by_keys_are_on_disk_after_a_kill(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with review(lake, path, "--reviewer", "ann") as running:
        page.goto(running.url)
        until("document.querySelector('#review .ask') !== null")
        asked = [_asked(page)]
        for keys in (["y"], ["n"], ["l", "2"]):
            for key in keys:
                page.keyboard.press(key)
            until(f"document.querySelector('#review .hint').textContent.startsWith('{len(asked)} answered')")
            asked.append(_asked(page))
        running.kill()
        found = read_answers(path)
        assert [answer.verdict for answer in found] == ["right", "wrong", "label"]
        assert found[0].label == found[0].found_label
        assert (found[1].label, found[1].reviewer) == ("background", "ann")
        assert len(set(asked)) == 4
        page.keyboard.press("y")
        until("document.querySelector('#review .said').textContent.startsWith('Not saved: the server is gone')")
        assert read_answers(path) == found
    with review(lake, path) as running:
        page.goto(running.url)
        until("document.querySelector('#review .hint')?.textContent.startsWith('3 answered, 15 left')")
        # The order is the same, so it goes on where it was.
        assert _asked(page) == asked[-1]
        assert text(running.stop().encode()).endswith("answers.csv: 3 answers")


def test_starts_ends_new_segments_skips_and_undo(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with review(lake, path, "--where", "label = 'sit' AND track_id = 1") as running:
        page.goto(running.url)
        until("document.getElementById('video').currentTime > 0.1 && PLAYER.now() !== null")
        _put(page, 2.5, until)
        page.keyboard.press("[")
        _put(page, 3.5, until)
        page.keyboard.press("]")
        assert "0:02.50 to 0:03.50" in page.inner_text("#review .ask")
        page.keyboard.press("y")
        until("document.querySelector('#review .hint').textContent.startsWith('1 answered')")
        (answer,) = read_answers(path)
        assert (answer.start_s, answer.end_s, answer.found_start_s, answer.found_end_s) == (2.5, 3.5, 2.0, 4.0)
        # In step k that person's left side is at 50 + 2 k pixels.
        assert answer.x1 == 50 + 2 * (25 + 34) / 2
        before = _asked(page)
        page.keyboard.press("s")
        until(f"document.querySelector('#facts dd:last-of-type').textContent !== {before!r}")
        until("PLAYER.now() !== null && !document.getElementById('video').seeking")
        _put(page, 0.5, until)
        page.keyboard.press("a")
        page.keyboard.press("y")
        assert page.inner_text("#review .said").startswith("A new segment is open")
        _put(page, 1.5, until)
        page.keyboard.press("a")
        page.keyboard.type("juggle")
        page.keyboard.press("Enter")
        until("document.querySelector('#review .said').textContent.startsWith('saved: juggle')")
        new = read_answers(path)[-1]
        assert (new.verdict, new.label, new.segment_id, new.start_s, new.end_s) == ("new", "juggle", "", 0.5, 1.5)
        assert new.x1 == 50 + 2 * (5 + 14) / 2
        page.keyboard.press("u")
        until("document.querySelector('#review .said').textContent.startsWith('taken back: juggle')")
        assert read_answers(path) == [answer]
        # The skip was before that; then the answer, whose start and end come back with it.
        page.keyboard.press("u")
        until("document.querySelector('#review .said').textContent.startsWith('no longer skipped')")
        assert read_answers(path) == [answer]
        page.keyboard.press("u")
        until("document.querySelector('#review .hint').textContent.startsWith('0 answered, 3 left')")
        assert read_answers(path) == []
        assert "0:02.50 to 0:03.50" in page.inner_text("#review .ask")
        page.keyboard.press("Escape")
        assert "0:02.00 to 0:04.00" in page.inner_text("#review .ask")


def test_the_clip_of_a_video_that_moved_says_why(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    videos = lake.parent / "videos"
    moved = videos.rename(tmp_path / "moved")
    try:
        with review(lake, tmp_path / "a.csv") as running:
            page.goto(running.url)
            until("document.getElementById('no-clip').textContent.includes('--videos-root')")
        with review(lake, tmp_path / "a.csv", "--videos-root", str(moved)) as running:
            page.goto(running.url)
            until("document.getElementById('video').currentTime > 0.1")
    finally:
        moved.rename(videos)


def test_times_are_those_of_the_video_though_a_clip_begins_earlier(
    lake: Path, page: Page, until: Wait, tmp_path: Path
) -> None:
    """The frames show their numbers, of which there are 30 a second; the clip begins with the keyframe at 2.8 s."""
    with review(lake, tmp_path / "a.csv", "--where", "video_id = '0000000000000000'") as running:
        page.goto(running.url)
        until("PLAYER.now() !== null")
        page.evaluate("PLAYER.playAt(0, 7.5)")  # The clip asked for is that from 3 s on.
        until("PLAYER.now()?.seconds >= 2.8 && document.getElementById('clock').textContent.startsWith('0:0')")
        page.evaluate("document.getElementById('video').pause()")
        _put(page, 4.51, until)
        bits = page.evaluate(
            """() => { const v = document.getElementById('video'), c = document.createElement('canvas');
            c.width = v.videoWidth; c.height = v.videoHeight; const pen = c.getContext('2d'); pen.drawImage(v, 0, 0);
            const at = (bit) => pen.getImageData((bit + 0.5) * c.width / 10, c.height / 2, 1, 1).data[0];
            return [...Array(10).keys()].map(at); }"""
        )
        assert sum(1 << bit for bit, value in enumerate(bits) if value > 127) == 135


def test_what_is_moved_and_what_is_new_is_drawn(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    """In the lane of the first video's first person, who sits from 2 to 4 s; before anything is saved, and after."""
    path = tmp_path / "answers.csv"
    with review(lake, path, "--where", "label = 'sit' AND video_id = '0000000000000000' AND track_id = 1") as running:
        page.goto(running.url)
        until("PLAYER.now() !== null")
        page.evaluate("TIMELINE.zoom(0.4)")
        _put(page, 2.0, until)
        plain = _lane(page)
        assert plain[1.0] == plain[5.0] != plain[2.5] == plain[3.5]
        _put(page, 3.0, until)
        page.keyboard.press("[")
        _put(page, 4.5, until)
        page.keyboard.press("]")
        moved = _lane(page)
        # What the model said is still there, weaker, and what is said now goes on beyond it.
        assert len({moved[seconds] for seconds in (1.0, 2.5, 3.5, 4.25)}) == 4
        page.keyboard.press("Escape")
        assert _lane(page) == plain
        _put(page, 3.0, until)
        page.keyboard.press("[")
        page.keyboard.press("y")
        until("document.querySelector('#review .hint').textContent.startsWith('1 answered')")
        saved = _lane(page)
        assert saved[2.5] == moved[2.5]
        assert saved[5.0] == plain[5.0]
        _put(page, 0.5, until)
        page.keyboard.press("a")
        _put(page, 1.5, until)
        assert _lane(page)[1.0] != plain[1.0]
        page.keyboard.press("a")
        page.keyboard.type("juggle")
        page.keyboard.press("Enter")
        until("document.querySelector('#review .said').textContent.startsWith('saved: juggle')")
        new = _lane(page)
        assert new[1.0] != plain[1.0]
        page.reload()
        until("ADDED.length === 1 && MOVED.size === 1")
        page.evaluate("TIMELINE.zoom(0.4)")
        assert {seconds: _lane(page)[seconds] for seconds in (1.0, 2.5)} == {1.0: new[1.0], 2.5: new[2.5]}
        page.keyboard.press("u")
        until("ADDED.length === 0")
        assert _lane(page)[1.0] == plain[1.0]


def test_a_second_window_replaces_nothing_unseen(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with review(lake, path) as running:
        page.goto(running.url)
        until("document.querySelector('#review .ask') !== null")
        other = page.context.new_page()
        other.goto(running.url)
        other.wait_for_selector("#review .ask")
        segment = _asked(other)
        page.keyboard.press("y")
        until("document.querySelector('#review .hint').textContent.startsWith('1 answered')")
        other.keyboard.press("n")
        other.wait_for_selector("#review .said.error")
        assert other.inner_text("#review .said") == (
            "Not saved: meanwhile another window of this review wrote; look again at what is shown now"
        )
        assert other.inner_text("#review .ask").endswith("(answered: right)")
        assert _asked(other) == segment
        assert [answer.verdict for answer in read_answers(path)] == ["right"]
        # Who has seen that may answer otherwise.
        other.keyboard.press("n")
        other.wait_for_selector("#review .said:has-text('saved: background')")
        assert [answer.verdict for answer in read_answers(path)] == ["wrong"]


def test_in_a_narrow_window_player_and_question_are_in_sight(
    lake: Path, page: Page, until: Wait, tmp_path: Path
) -> None:
    page.set_viewport_size({"width": 420, "height": 860})
    with review(lake, tmp_path / "answers.csv") as running:
        page.goto(running.url)
        until("document.querySelector('#review .ask') !== null && PLAYER.now() !== null")
        for part in ("#screen", "#review .ask", "#review .answers"):
            box = page.locator(part).bounding_box()
            assert box
            assert box["y"] + box["height"] <= 860, part


def test_a_key_that_is_held_answers_once(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    with review(lake, path) as running:
        page.goto(running.url)
        until("document.querySelector('#review .ask') !== null")
        for _ in range(5):
            page.keyboard.down("y")
        page.keyboard.up("y")
        until("document.querySelector('#review .hint').textContent.startsWith('1 answered')")
        page.keyboard.press("n")
        until("document.querySelector('#review .hint').textContent.startsWith('2 answered')")
        assert [answer.verdict for answer in read_answers(path)] == ["right", "wrong"]


def test_a_new_segment_is_that_of_the_lane_that_was_clicked(
    lake: Path, page: Page, until: Wait, tmp_path: Path
) -> None:
    path = tmp_path / "answers.csv"
    with review(lake, path, "--where", "video_id = '0000000000000000'") as running:
        page.goto(running.url)
        until("PLAYER.now() !== null")
        # Between the segments there is nothing to click, so fall is hidden; then the second lane is empty from 4 s on.
        page.click("#filters button:has-text('fall')")
        page.click("#filters button:has-text('img')")
        box = page.locator("#timeline-canvas").bounding_box()
        assert box
        seconds = "TIMELINE.scale() * 0.3"
        x = box["x"] + 128 + page.evaluate(f"4 * TIMELINE.scale() + {seconds}")
        page.mouse.click(min(x, box["x"] + box["width"] - 4), box["y"] + 24 + 26 + 20 + 10)
        until("PLAYER.now()?.seconds > 4")
        _put(page, 4.5, until)
        page.keyboard.press("a")
        assert "person 2" in page.inner_text("#review .said")
        _put(page, 5.5, until)
        page.keyboard.press("a")
        page.fill("#review input", "kneel")
        page.keyboard.press("Enter")
        until("document.querySelector('#review .said').textContent.startsWith('saved: kneel')")
        assert read_answers(path)[0].x1 == 80 + 2 * (45 + 54) / 2


def test_two_reviewers_are_asked_the_same(lake: Path, page: Page, until: Wait, tmp_path: Path) -> None:
    paths = [tmp_path / "ann.csv", tmp_path / "ben.csv"]
    for path, keys in zip(paths, ("yyynn", "yyyny"), strict=True):
        with review(lake, path) as running:
            page.goto(running.url)
            until("document.querySelector('#review .ask') !== null")
            for n, key in enumerate(keys, start=1):
                page.keyboard.press(key)
                until(f"document.querySelector('#review .hint').textContent.startsWith('{n} answered')")
    answers: list[list[Answer]] = [read_answers(path) for path in paths]
    assert [a.segment_id for a in answers[0]] == [b.segment_id for b in answers[1]]
    shown = text(here("agreement", *paths).stdout)
    assert "5 segments answered by both" in shown
    assert "all labels │ 5 │ 0.800" in shown


def _asked(page: Page) -> str:
    """Return the segment that is shown: others may be asked for in the same words."""
    return page.locator("#facts dd").last.text_content() or ""


def _lane(page: Page) -> dict[float, tuple[int, ...]]:
    """Return the colour of the first lane at some seconds, where nothing is written, when it is drawn anew."""
    return {
        seconds: tuple(
            page.evaluate(
                "(seconds) => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {"
                " const canvas = document.getElementById('timeline-canvas');"
                " done([...canvas.getContext('2d').getImageData(TIMELINE.xOf(seconds), 24 + 26 + 4, 1, 1).data]); })))",
                seconds,
            )
        )
        for seconds in (1.0, 2.5, 3.5, 4.25, 5.0)
    }  # fmt: skip


def _put(page: Page, seconds: float, until: Wait) -> None:
    """Let the video stand at a second of the video, in the middle of a frame's time."""
    page.evaluate(
        "(seconds) => { const v = document.getElementById('video'); v.pause();"
        " v.currentTime += seconds - PLAYER.now().seconds; }", seconds,
    )  # fmt: skip
    until("!document.getElementById('video').seeking")
