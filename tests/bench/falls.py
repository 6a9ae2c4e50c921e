"""Count the falls that a job finds in UR Fall Detection, on which no model was trained, and its false alarms.

    python -m tests.bench.falls ../shared/data/urfd/clips [--model daily22-look] [--detector person_pose]
    python -m tests.bench.falls ../shared/data/urfd/clips --without ../shared/data/jhmdb/clips ../shared/data/street

Each clip holds one fall. The fall counts as found if the clip has a segment `fall`. In footage `--without` falls, each
such segment is a false alarm. The model's own limits of novelty are lifted, and the table shows the effect of limits on
score and novelty. `urfd_falls.csv` holds the start and end of each fall, from the loss of balance to rest, annotated by
eye at five pictures per second.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import Config, analyze, open_lake
from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.engine.models import config_for
from pipeline.lake.query import LakeReader


@dataclass(frozen=True)
class Limit:
    """Which segments `fall` count."""

    least_score: float = 0.0
    most_novel: float = 1.0

    def __str__(self) -> str:
        if self.most_novel < 1.0:
            return f"novelty of at most {self.most_novel:g}"
        return f"score of at least {self.least_score:g}" if self.least_score else "all of them"

    def keeps(self, score: float, novelty: float | None) -> bool:
        """Whether a segment counts."""
        return score >= self.least_score and (novelty is None or novelty <= self.most_novel)


LIMITS = (
    Limit(), *(Limit(least_score=score) for score in (0.4, 0.5, 0.6, 0.7, 0.8)),
    *(Limit(most_novel=novelty) for novelty in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)),
)  # fmt: skip


def analyzed(footage: Sequence[Path], folder: str, bundle: Bundle, detector: str | None) -> LakeReader:
    """Return the lake of some footage."""
    config = Config.load(None, {"scope": bundle.scope} | config_for([bundle]), detector=detector)
    analyze([str(path) for path in footage], folder, bundle, config)
    return open_lake(folder)


FALLS = """
SELECT f.video_id, f.score, f.novelty, count(l.label) > 0 AS then_lies FROM segments f LEFT JOIN segments l
ON l.video_id = f.video_id AND l.track_id = f.track_id AND l.label = 'lie'
AND l.start_s BETWEEN f.end_s - 0.2 AND f.end_s + 2
WHERE f.label = 'fall' GROUP BY f.video_id, f.segment_id, f.score, f.novelty
"""


def per_video(falls: Sequence[dict[str, Any]], limit: Limit, then_lies: bool) -> Counter[str]:
    """Return how many falls were found in each video that has any; if so asked, of those who lie there afterwards."""
    return Counter(
        fall["video_id"]
        for fall in falls
        if limit.keeps(fall["score"], fall["novelty"]) and (fall["then_lies"] or not then_lies)
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
    shipped = load_bundle(arguments.model)
    bundle = shipped.limited(1.0)
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
        print(f"it ships with a limit of novelty of {shipped.segments.most_novel_event:g}")
        print("| limit | falls found | just one segment | false alarms | then lies: found | false alarms |")
        print("| --- | --- | --- | --- | --- | --- |")
        falls, false_alarms = (of.sql(FALLS).to_pylist() if of else [] for of in (lake, quiet))
        for limit in LIMITS:
            found, lying = (per_video(falls, limit, then_lies) for then_lies in (False, True))
            just_one = sum(n == 1 for n in found.values())
            alarms, lying_alarms = (
                per_video(false_alarms, limit, then_lies).total() if quiet else "" for then_lies in (False, True)
            )
            cells = [limit, f"{len(found)} of {n_clips}", just_one, alarms, len(lying), lying_alarms]
            print(f"| {' | '.join(map(str, cells))} |")
        if quiet:
            print(f"without a fall: {seconds_of(quiet.table('videos').to_pylist()) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
