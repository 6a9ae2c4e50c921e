"""Count the falls that a job finds in UR Fall Detection, on which no model was trained, and its false alarms.

    python -m tests.bench.falls ../shared/data/urfd/clips [--model daily22-look] [--detector person_pose]
    python -m tests.bench.falls ../shared/data/urfd/clips --without ../shared/data/jhmdb/clips ../shared/data/street

Each clip holds one fall. The fall counts as found if the clip has a segment `fall`. In footage `--without` falls, each
such segment is a false alarm. The table shows the effect of a least score for falls. `urfd_falls.csv` holds the start
and end of each fall, from the loss of balance to rest, annotated by eye at five pictures per second.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import Config, analyze, open_lake
from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.engine.models import config_for
from pipeline.lake.query import LakeReader

LEAST_SCORES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def analyzed(footage: Sequence[Path], folder: str, bundle: Bundle, detector: str | None) -> LakeReader:
    """Return the lake of some footage."""
    config = Config.load(None, {"scope": bundle.scope} | config_for([bundle]), detector=detector)
    analyze([str(path) for path in footage], folder, bundle, config)
    return open_lake(folder)


FALLS = """
SELECT f.video_id, f.score, count(l.label) > 0 AS then_lies FROM segments f LEFT JOIN segments l
ON l.video_id = f.video_id AND l.track_id = f.track_id AND l.label = 'lie'
AND l.start_s BETWEEN f.end_s - 0.2 AND f.end_s + 2
WHERE f.label = 'fall' GROUP BY f.video_id, f.segment_id, f.score
"""


def per_video(falls: Sequence[dict[str, Any]], least_score: float, then_lies: bool) -> Counter[str]:
    """Return how many falls were found in each video that has any; if so asked, of those who lie there afterwards."""
    return Counter(
        fall["video_id"] for fall in falls if fall["score"] >= least_score and (fall["then_lies"] or not then_lies)
    )


def misplaced_s(lake: LakeReader) -> tuple[list[float], list[float]]:
    """Return how much too late the first fall of each clip starts, and how much too late the last one ends."""
    with open(Path(__file__).parent / "urfd_falls.csv", encoding="utf-8") as file:
        true = {row["video"]: (float(row["start_s"]), float(row["end_s"])) for row in csv.DictReader(file)}
    found: dict[str, list[tuple[float, float]]] = {}
    for row in lake.table("segments", ["uri", "label", "start_s", "end_s"]).to_pylist():
        if row["label"] == "fall" and Path(row["uri"]).name in true:
            found.setdefault(Path(row["uri"]).name, []).append((row["start_s"], row["end_s"]))
    starts = [min(start for start, _ in spans) - true[name][0] for name, spans in found.items()]
    return starts, [max(end for _, end in spans) - true[name][1] for name, spans in found.items()]


def seconds_of(videos: Sequence[dict[str, Any]]) -> float:
    """Return how long footage is."""
    return sum(video["covered_s"] or 0.0 for video in videos)


def main() -> None:
    """Analyze, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--without", type=Path, nargs="+", default=[], help="footage without a fall")
    parser.add_argument("--model", default="everyday12-pose")
    parser.add_argument("--detector")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        lake = analyzed([arguments.clips], f"{folder}/falls", bundle, arguments.detector)
        n_clips = lake.table("videos").num_rows
        n_frames = sum(lake.table("videos")["n_frames_sampled"].to_pylist())
        boxes = lake.table("detections", ["video_id", "frame_index", "track_id"]).to_pylist()
        n_followed = len({(box["video_id"], box["frame_index"]) for box in boxes if box["track_id"] is not None})
        rows = lake.table("segments", ["video_id", "label"]).to_pylist()
        clips_with = Counter(label for _, label in {(row["video_id"], row["label"]) for row in rows})
        quiet = (
            analyzed(arguments.without, f"{folder}/quiet", bundle, arguments.detector) if arguments.without else None
        )
        print(f"{bundle.name}: somebody is followed in {n_followed / n_frames:.3f} of the sampled frames")
        print("clips with a segment:", dict(sorted(clips_with.items())))
        for name, late in zip(("starts", "ends"), misplaced_s(lake), strict=True):
            if not late:
                continue
            low, middle, high = np.quantile(late, [0.1, 0.5, 0.9])
            print(f"{name}: {middle:+.2f} s late in the middle, {low:+.2f} to {high:+.2f} for 8 of 10")
        print("| least score | falls found | just one segment | false alarms | then lies: found | false alarms |")
        print("| --- | --- | --- | --- | --- | --- |")
        falls, false_alarms = (of.sql(FALLS).to_pylist() if of else [] for of in (lake, quiet))
        for least_score in LEAST_SCORES:
            found, lying = (per_video(falls, least_score, then_lies) for then_lies in (False, True))
            just_one = sum(n == 1 for n in found.values())
            alarms, lying_alarms = (
                per_video(false_alarms, least_score, then_lies).total() if quiet else "" for then_lies in (False, True)
            )
            cells = [f"{least_score:g}", f"{len(found)} of {n_clips}", just_one, alarms, len(lying), lying_alarms]
            print(f"| {' | '.join(map(str, cells))} |")
        if quiet:
            print(f"without a fall: {seconds_of(quiet.table('videos').to_pylist()) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
