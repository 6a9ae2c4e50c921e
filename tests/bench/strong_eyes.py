"""Separate the errors of the detector from those of the LSTM: run the bundled model on stronger boxes and keypoints.

    python -m tests.bench.strong_eyes ../shared/data/urfd/clips ../shared/weights

The boxes are those of YOLOv8n, trained on COCO, at 640 px. The keypoints are those of BlazePose in these boxes. Each
clip of UR Fall Detection holds one fall. It counts as found if the clip has a segment `fall`. `tests.bench.falls` does
the same with the embedded detector.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import decode, detect, follow
from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.activity.segments import StepRun, find_segments
from pipeline.motion.kinematics import box_motion
from pipeline.motion.poses import pose_motion
from pipeline.motion.tracking import NO_TRACK
from pipeline.training.skeletons import joints_at
from pipeline.vision.landmarks import LandmarkNetwork
from pipeline.vision.runtime import choose_runtime
from tests.bench.falls import LIMITS

_SHORTEST = 3
"""Steps of a track that is looked at."""


def tracks(clip: Path, detector: str, landmarks: LandmarkNetwork, fps: float) -> Iterator[NDArray[np.float16]]:
    """Yield the inputs of the model for each track of a clip, `float16 [T, 94]`."""
    frames = list(decode(clip, fps=fps))
    found = list(detect(frames, detector, min_score=0.1, detector_px=640))
    ids = list(follow(found, fps))
    seen: dict[int, list[tuple[int, NDArray[np.float32], NDArray[np.float32]]]] = {}
    for step, (frame, of_look, of_frame) in enumerate(zip(frames, found, ids, strict=True)):
        for box, track in zip(of_look.xyxy, of_frame.tolist(), strict=True):
            if track != NO_TRACK:
                keypoints, _ = landmarks.keypoints(frame.image, box)
                seen.setdefault(track, []).append((step, box, keypoints))
    for of_track in seen.values():
        steps, xyxy, keypoints = (np.array(part) for part in zip(*of_track, strict=True))
        if len(steps) < _SHORTEST:
            continue
        # Between two looks at somebody a lake repeats the first one; here it is moved on evenly.
        every = np.arange(steps[0], steps[-1] + 1)
        at = np.interp(every, steps, np.arange(len(steps)))
        corners, points = (joints_at(part, at).astype(np.float32) for part in (xyxy.reshape(-1, 2, 2), keypoints))
        boxes = corners.reshape(-1, 4)
        vectors = [box_motion(every / fps, boxes), pose_motion(every / fps, boxes, points)]
        yield np.hstack(vectors).astype(np.float16)


def falls(clip: Path, bundle: Bundle, detector: str, landmarks: LandmarkNetwork) -> list[StepRun]:
    """Return the falls that the model finds with these eyes."""
    classifier, fall = bundle.classifier(), bundle.labels.index("fall")
    return [
        run
        for inputs in tracks(clip, detector, landmarks, bundle.sample_fps)
        for run in find_segments(
            map(classifier.scored, classifier.logits([inputs])), 0, bundle.sample_fps, bundle.segments
        )
        if run.label_id == fall
    ]


def main() -> None:
    """Look, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("weights", type=Path, help="folder with yolov8n_coco.pt and pose_landmark_full.tflite")
    parser.add_argument("--model", default="everyday12-pose")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model).limited(1.0)
    landmarks = LandmarkNetwork(arguments.weights / "pose_landmark_full.tflite", choose_runtime("cpu"))
    clips = sorted(arguments.clips.glob("*.mp4"))
    found = [falls(clip, bundle, str(arguments.weights / "yolov8n_coco.pt"), landmarks) for clip in clips]
    for limit in LIMITS:
        counts = [sum(limit.keeps(run.score, run.novelty) for run in of_clip) for of_clip in found]
        n_found, n_once = sum(count > 0 for count in counts), sum(count == 1 for count in counts)
        print(f"{limit}: a fall in {n_found} of {len(clips)} clips, just one in {n_once}")


if __name__ == "__main__":
    main()
