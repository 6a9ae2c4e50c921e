"""Measure the gain and cost of `skip_unchanged`: boxes of skipped frames, beside those that the detector finds there.

python -m tests.bench.unchanged VIDEO... [--levels 2,5,10]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from pipeline.archive.plan import OPEN_END, Chunk
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.video.decode import decode_chunk
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.runtime import choose_runtime
from pipeline.vision.views import changed_frames
from tests.overlaps import overlaps

SURE = 0.25
"""Only boxes of which a track can begin are compared."""


def n_shared(found: Boxes, taken: Boxes) -> tuple[int, int]:
    """Return how many sure boxes there are, and how many of them lie on one that was taken over, by half or more."""
    sure = found.xyxy[found.scores >= SURE]
    if not len(sure) or not len(taken.xyxy):
        return len(sure), 0
    return len(sure), int((overlaps(sure, taken.xyxy).max(axis=1) >= 0.5).sum())


def measure(sources: Sequence[str], levels: Sequence[float]) -> None:
    """Print for each level which share of frames is looked at, and which share of boxes stays right."""
    detector = Detector("person_nano", choose_runtime("cpu"), ["person"], None, 0.1, 32)
    counts = {level: np.zeros(4, np.int64) for level in levels}
    for ref in list_videos(sources):
        for batch in decode_chunk(ref.uri, probe_video(ref), Chunk(0, 0, OPEN_END, 0.0), Fraction(15), 640, 48):
            found = detector.detect(batch.images)
            for level in levels:
                seen = changed_frames(batch.images, level)
                taken = [found[i] for i in seen[np.searchsorted(seen, np.arange(len(found)), side="right") - 1]]
                shared = [n_shared(*pair) for pair in zip(found, taken, strict=True)]
                counts[level] += (len(found), len(seen), *np.sum(shared, axis=0))
    for level, (n_frames, n_seen, n_boxes, n_right) in counts.items():
        print(
            f"{level:g} levels: {n_seen / n_frames:.1%} of {n_frames} frames, {n_right / n_boxes:.1%} of boxes the same"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--levels", default="2,5,10,20")
    options = parser.parse_args()
    measure(options.videos, [float(level) for level in options.levels.split(",")])


if __name__ == "__main__":
    main()
