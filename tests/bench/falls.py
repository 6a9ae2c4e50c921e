"""Count the falls that a job finds in UR Fall Detection, of which no model has seen anything.

    python -m tests.bench.falls ../shared/data/urfd/clips [--model daily22-person] [--detector person_pose]

Each of its clips holds one fall, near the end. A clip counts if a segment `fall` is in it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from pipeline import Config, analyze, open_lake
from pipeline.activity.bundle import load_bundle
from pipeline.engine.models import config_for


def main() -> None:
    """Analyze, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--model", default="daily22-look")
    parser.add_argument("--detector")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    config = Config.load(None, {"scope": bundle.scope} | config_for([bundle]), detector=arguments.detector)
    with tempfile.TemporaryDirectory() as folder:
        analyze(str(arguments.clips), folder, bundle, config)
        lake = open_lake(folder)
        clips = {row["video_id"]: row["n_frames_sampled"] for row in lake.table("videos").to_pylist()}
        segments = lake.table("segments").to_pylist()
        followed = Counter(
            video
            for video, _ in {
                (row["video_id"], row["frame_index"])
                for row in lake.table("detections").to_pylist()
                if row["track_id"] is not None
            }
        )
    of_label = {
        label: len({row["video_id"] for row in segments if row["label"] == label}) for label in sorted(bundle.labels)
    }
    share = sum(followed.values()) / sum(clips.values())
    print(f"{bundle.name} on the boxes of {config.chosen_detector}: a fall in {of_label['fall']} of {len(clips)} clips")
    print(f"somebody is followed in {share:.3f} of the sampled frames")
    print("clips with a segment:", {label: n for label, n in of_label.items() if n})


if __name__ == "__main__":
    main()
