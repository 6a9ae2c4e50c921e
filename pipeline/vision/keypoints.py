"""The keypoints of a person: COCO's 17, which pose networks agree on."""

from __future__ import annotations

KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
"""Their names, in COCO's order."""


def _mirrored(name: str) -> str:
    side, _, joint = name.partition("_")
    return f"{ {'left': 'right', 'right': 'left'}[side] }_{joint}" if joint else name


MIRRORED = [KEYPOINTS.index(_mirrored(name)) for name in KEYPOINTS]
"""For each keypoint, the number of the keypoint that it becomes in a mirrored picture."""

BONES = [
    (KEYPOINTS.index(one), KEYPOINTS.index(other))
    for one, other in (
        ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"),
        ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
        *((f"{side}_{one}", f"{side}_{other}") for side in ("left", "right") for one, other in (
            ("shoulder", "elbow"), ("elbow", "wrist"), ("shoulder", "hip"), ("hip", "knee"), ("knee", "ankle"),
        )),
    )
]  # fmt: skip
"""Pairs of keypoints between which a line is drawn."""
