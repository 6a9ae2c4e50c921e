"""Measure the speed of a report's page with many segments: the time to its first view, and the frame rate of scrolling.

    python -m tests.bench.page [--segments 10000]

The segments are simulated, 50 per video, without clips. Chromium itself measures the time from the request to the first
drawn view, and the frames per second while each view is scrolled for three seconds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from pipeline.lake.query import open_lake
from pipeline.report.page import page_data, render
from tests.browsing import launched
from tests.lakes import lake_of_segments

# The pictures are counted; in each it is scrolled a little further.
_COUNT = """(selector) => new Promise((done) => {
    const target = document.querySelector(selector), begun = performance.now(), times = [];
    const turn = (now) => {
        times.push(now);
        target.scrollTop += 60;
        if (performance.now() - begun < 3000) requestAnimationFrame(turn); else done(times);
    };
    requestAnimationFrame(turn);
})"""


def pictures_per_s(page: Page, key: str, selector: str) -> tuple[float, float]:
    """Return the mean rate, and that of the slowest twentieth of the pictures."""
    page.keyboard.press(key)
    times = page.evaluate(_COUNT, selector)
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    return 1000 / statistics.mean(gaps), 1000 / gaps[int(0.95 * len(gaps))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--segments", type=int, default=10_000)
    n = parser.parse_args().segments
    segments = [
        {"uri": f"/videos/{i // 50:06d}.mp4", "segment_id": f"{i:08d}", "label": f"label {i % 9}", "score": i % 97 / 97,
         "novelty": i % 89 / 89, "track_id": i % 7, "start_s": 4.0 * (i % 50), "end_s": 4.0 * (i % 50) + 3.5}
        for i in range(n)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        uris = {f"/videos/{i:06d}.mp4": 204.0 for i in range(-(-n // 50))}
        reader = open_lake(str(lake_of_segments(Path(folder) / "lake", uris, segments)))
        path = Path(folder) / "index.html"
        path.write_text(render(page_data(reader, reader.segments(), "many")), encoding="utf-8")
        print(f"{n} segments: {path.stat().st_size / 1e6:.2f} MB")
        browser = launched(playwright)
        opened = []
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1400, "height": 860})
            page.goto(path.as_uri())
            opened.append(page.evaluate("new Promise((done) => requestAnimationFrame(() => done(performance.now())))"))
        print(f"opened after {statistics.median(opened):.0f} ms (median of 5; {min(opened):.0f} to {max(opened):.0f})")
        for name, key, selector in (("timeline", "1", "#timeline-scroll"), ("table", "2", "#grid-scroll")):
            mean, slow = pictures_per_s(page, key, selector)
            print(f"{name}: {mean:.0f} pictures/s while scrolled, {slow:.0f} in the slowest twentieth")
        browser.close()


if __name__ == "__main__":
    main()
