"""Run the whole round by keyboard in a browser: review segments, teach, label again, measure on a person left out.

    python -m tests.bench.teaching ../shared/data LAKE MODEL OUT [--segments 30]

LAKE is a lake of GMDCSA24's clips, labelled by MODEL, the folder of a bundle that was not trained on that data set:

    actionlake analyze ../shared/data/gmdcsa24/clips --lake LAKE --model MODEL

For each of the four people, segments of the other three are reviewed in the order of `review`. The answer is the label
that `everyday_gmdcsa24.csv` gives for most of the segment. If that lasts shorter, start and end are moved. A track with
a low mean detection score is answered with "wrong", as a human would: it is a door or a curtain. Then the left-out
person's videos are labelled by the model before and after teaching.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from pipeline import open_lake
from pipeline.lake.query import LakeReader
from pipeline.training.cases import evaluate_lake
from tests.browsing import launched, wait_until
from tests.reviews import review

TRUTH = Path(__file__).parent / "everyday_gmdcsa24.csv"
# Below this mean score a track is no person.
SOMEBODY = 0.4
# Nobody moves a start by less.
EXACT_S = 0.3
Spans = list[tuple[float, float, str]]


def truth() -> dict[str, Spans]:
    """Return what is done in each clip, by its name."""
    spans: dict[str, Spans] = defaultdict(list)
    with open(TRUTH, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            span = float(row["start_s"] or 0), float(row["end_s"] or 1e9), row["label"]
            spans[Path(row["video"]).name].append(span)
    return spans


def answer_for(row: dict[str, Any], spans: Spans, is_person: bool) -> tuple[str, str, float, float]:
    """Return verdict, label, start and end for a segment."""
    if not is_person:
        return "wrong", "", row["start_s"], row["end_s"]
    common = [(min(end, row["end_s"]) - max(start, row["start_s"]), start, end, label) for start, end, label in spans]
    longest, start, end, label = max(common, default=(0.0, 0.0, 0.0, ""))
    if longest <= 0.2 * (row["end_s"] - row["start_s"]) or label == "background":
        return "wrong", "", row["start_s"], row["end_s"]
    verdict = "right" if label == row["label"] else "label"
    return verdict, label, max(start, row["start_s"]), min(end, row["end_s"])


def seek(page: Page, seconds: float) -> None:
    """Bring the video to a moment by keys alone."""
    for _ in range(60):
        away = seconds - page.evaluate("PLAYER.now().seconds")
        if abs(away) <= 0.03:
            return
        big = abs(away) >= 1
        page.keyboard.press(("ArrowRight" if away > 0 else "ArrowLeft") if big else ("." if away > 0 else ","))
        wait_until(page, "!document.getElementById('video').seeking")


def answer_one(
    page: Page, rows: dict[str, dict[str, Any]], spans: dict[str, Spans], sure: dict[Any, float], n: int
) -> str:
    wait_until(page, "PLAYER.now() !== null && !document.getElementById('video').seeking")
    row = rows[page.locator("#facts dd").last.text_content() or ""]
    is_person = sure[row["video_id"], row["track_id"]] >= SOMEBODY
    verdict, label, start, end = answer_for(row, spans[Path(row["uri"]).name], is_person)
    for key, wanted, there in (("[", start, row["start_s"]), ("]", end, row["end_s"])):
        if abs(wanted - there) > EXACT_S:
            seek(page, wanted)
            page.keyboard.press(key)
    if verdict == "label":
        page.keyboard.press("l")
        page.locator("#review .pick input").focus()
        page.keyboard.type(label)
        page.keyboard.press("Enter")
    else:
        page.keyboard.press("y" if verdict == "right" else "n")
    wait_until(page, f"document.querySelector('#review .hint').textContent.startsWith('{n} answered')")
    return verdict


def review_by_keys(reader: LakeReader, lake: Path, answers: Path, where: str, n: int) -> list[str]:
    rows = {row["segment_id"]: row for row in reader.table("segments").to_pylist()}
    seen = reader.sql("SELECT video_id, track_id, avg(score) AS score FROM detections GROUP BY ALL").to_pylist()
    sure = {(row["video_id"], row["track_id"]): row["score"] for row in seen}
    with sync_playwright() as playwright, review(lake, answers, "--where", where) as running:
        page = launched(playwright).new_page(viewport={"width": 1400, "height": 860})
        page.goto(running.url)
        wait_until(page, "document.querySelector('#review .ask') !== null")
        left = page.evaluate("SEGMENTS.id.length")
        return [answer_one(page, rows, truth(), sure, k) for k in range(1, min(n, left) + 1)]


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pipeline.cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("lake", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--segments", type=int, default=30)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print("left out | answers (right, wrong, other) | review, teach and relabel s | F1@25, time right: before, after")
    total = []
    for person in "1234":
        lake = options.out / f"lake{person}"
        shutil.rmtree(lake, ignore_errors=True)
        shutil.copytree(options.lake, lake)
        answers, taught = options.out / f"answers{person}.csv", options.out / f"taught{person}"
        answers.unlink(missing_ok=True)
        started = time.monotonic()
        others = f"NOT contains(uri, '/s{person}_')"
        verdicts = review_by_keys(open_lake(str(lake)), lake, answers, others, options.segments)
        reviewed = time.monotonic()
        command("teach", "--lake", str(lake), str(answers), "--model", str(options.model), "--out", str(taught))
        finished = time.monotonic()
        own = options.out / f"truth{person}.csv"
        rows = TRUTH.read_text(encoding="utf-8").splitlines()
        own.write_text("\n".join([rows[0], *(row for row in rows if f"/s{person}_" in row)]) + "\n", encoding="utf-8")
        figures = []
        for model in (options.model.name, taught.name):
            found = evaluate_lake(str(lake), own, model, partial=True).evaluation.figures
            figures += [found["f1@25"].value, found["frame_accuracy"].value]
        total.append(figures)
        kinds = ", ".join(str(verdicts.count(kind)) for kind in ("right", "wrong", "label"))
        print(
            f"subject {person} | {len(verdicts)} ({kinds}) | {reviewed - started:.0f}, {finished - reviewed:.0f} | "
            f"{figures[0]:.3f}, {figures[1]:.3f} -> {figures[2]:.3f}, {figures[3]:.3f}", flush=True,
        )  # fmt: skip
    means = [sum(column) / len(total) for column in zip(*total, strict=True)]
    print(f"mean | F1@25 {means[0]:.3f} -> {means[2]:.3f}; time right {means[1]:.3f} -> {means[3]:.3f}")


if __name__ == "__main__":
    main()
