"""Make the skeletons from which the bundled model of everyday activities learns, in addition to videos.

    python -m tests.bench.skeletons ../shared/data/skeletons OUT.npz [--picture OUT.png]

Two data sets hold people who walk, sit down, get up, bend, wave and do much else before a depth camera. Nobody falls in
them. So the script makes falls: it turns standing, walking or sitting people to the ground about their feet or seat, in
0.4 to 1.4 s and in every direction, and lets them lie there; it lets their legs give way, and rolls them out of bed. It
also makes movements that are often mistaken for falls: lying down slowly, turning over, squatting, bending.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.training.sequences import IGNORE
from pipeline.training.skeletons import Skeletons, look_at
from pipeline.vision.keypoints import BONES, KEYPOINTS
from tests.bench.bodies import AT, Joints
from tests.bench.scenes import HZ, NAMES, NEEDS_LEGS, SHARES, Cast

_ORDER = {
    "utkinect": (3, 2, 1, 0, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18, 15, 19),
    "msr_action3d": (19, 2, 3, 6, 0, 1, 7, 8, 9, 10, 4, 5, 13, 14, 15, 16, 17, 18),
}
"""Where each data set has them; it has all of a torso's length brought to `_TORSO_M`."""
_TORSO_M = 0.5
_WRITTEN_HZ = 15


def load_takes(folder: Path) -> dict[str, list[Joints]]:
    """Return all sequences of both data sets, by what is done; all people of one size."""
    takes: dict[str, list[Joints]] = {}
    for name, order in _ORDER.items():
        with np.load(folder / f"{name}.npz") as file:
            ends = np.cumsum(file["lengths"])
            for end, length, label in zip(ends, file["lengths"], file["labels"], strict=True):
                joints = file["joints"][end - length : end, :, :3][:, order].astype(np.float64)
                # The camera lost some: they lie in the origin.
                joints = joints[np.isfinite(joints).all(axis=(1, 2)) & (np.abs(joints).sum(axis=(1, 2)) > 0.1)]
                torso = joints[:, AT["neck"]] - joints[:, AT["hips"]]
                size = np.median(np.linalg.norm(torso, axis=1)) if len(joints) >= 6 else 0
                if size > 0.1:
                    # x is turned round: as the camera has it, faces would look over people's heels.
                    takes.setdefault(str(label), []).append(joints * (_TORSO_M / size) * [-1, 1, 1])
    return takes


def keypoints_of(joints: Joints) -> NDArray[np.float32]:
    """Return COCO's keypoints `float32 [T, 17, 3]`.

    The face is put where it must be. Shoulders lie higher, and hips lower, than those of a depth camera.
    """
    up = joints[:, AT["neck"]] - joints[:, AT["hips"]]
    left = joints[:, AT["left_shoulder"]] - joints[:, AT["right_shoulder"]]
    up, left = (axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-6) for axis in (up, left))
    ahead, head = np.cross(up, left), joints[:, AT["head"]]
    put = {
        **{f"{side}_shoulder": joints[:, AT[f"{side}_shoulder"]] + 0.08 * up for side in ("left", "right")},
        **{f"{side}_hip": joints[:, AT[f"{side}_hip"]] - 0.04 * up for side in ("left", "right")},
        "nose": head + 0.1 * ahead - 0.02 * up,
        "left_eye": head + 0.08 * ahead + 0.03 * left + 0.03 * up,
        "right_eye": head + 0.08 * ahead - 0.03 * left + 0.03 * up,
        "left_ear": head + 0.07 * left,
        "right_ear": head - 0.07 * left,
    }
    return np.stack([put[n] if n in put else joints[:, AT[n]] for n in KEYPOINTS], axis=1).astype(np.float32)


def play(takes: dict[str, list[Joints]], n: int, seed: int) -> Skeletons:
    """Return so many sequences."""
    rng = np.random.default_rng(seed)
    cast, scripts, shares = Cast(takes, rng), list(SHARES), np.array(list(SHARES.values()))
    joints, label_ids, lengths = [], [], []
    for number in rng.choice(len(scripts), n, p=shares / shares.sum()):
        script = scripts[number](cast)
        played = np.concatenate([part for part, _ in script])[:: HZ // _WRITTEN_HZ]
        ids = np.concatenate([np.full(len(part), NAMES.index(label)) for part, label in script])[:: HZ // _WRITTEN_HZ]
        joints.append(keypoints_of(played))
        label_ids.append(ids)
        lengths.append(len(ids))
    needs_legs = np.array([name in NEEDS_LEGS for name in NAMES])
    return Skeletons(
        np.concatenate(joints), np.concatenate(label_ids), np.array(lengths), NAMES, needs_legs, float(_WRITTEN_HZ)
    )


def picture(skeletons: Skeletons, n: int, columns: int = 12, px: int = 110) -> NDArray[np.uint8]:
    """Draw some of them as a detector would see them, a row each, `uint8 [H, W, 3]`."""
    rng, rows = np.random.default_rng(0), []
    for part in skeletons.parts()[:n]:
        steps, xyxy, keypoints, _ = look_at(skeletons.joints[part], 0.5, rng)
        low, high = xyxy[:, :2].min(axis=0), xyxy[:, 2:].max(axis=0)
        scale = (px - 20) / (high - low).max()
        row = []
        for step in np.linspace(0, len(steps) - 1, columns).astype(int):
            tile = np.zeros((px, px, 3), np.uint8)
            places = ((keypoints[step, :, :2] - low) * scale + 5).astype(int)
            corners = ((xyxy[step].reshape(2, 2) - low) * scale + 5).astype(int)
            cv2.rectangle(tile, tuple(map(int, corners[0])), tuple(map(int, corners[1])), (0, 120, 255))
            for one, other in BONES:
                sure = min(keypoints[step, one, 2], keypoints[step, other, 2]) > 0.3
                ends = [tuple(map(int, places[end])) for end in (one, other)]
                cv2.line(tile, *ends, (90, 255, 90) if sure else (90, 90, 90))
            label_id = skeletons.label_ids[part][steps[step]]
            label = skeletons.names[label_id] if label_id != IGNORE else ""
            cv2.putText(tile, label, (2, px - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1)
            row.append(tile)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def main() -> None:
    """Write the skeletons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skeletons", type=Path, help="folder with utkinect.npz and msr_action3d.npz")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sequences", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="draw some of them")
    chosen = parser.parse_args()
    skeletons = play(load_takes(chosen.skeletons), chosen.sequences, chosen.seed)
    # Half as wide is exact to a millimetre.
    np.savez_compressed(chosen.out, **vars(replace(skeletons, joints=skeletons.joints.astype(np.float16))))
    seconds = {name: int((skeletons.label_ids == number).sum() / skeletons.rate) for number, name in enumerate(NAMES)}
    print(f"{chosen.sequences} sequences, seconds: {', '.join(f'{name} {n}' for name, n in seconds.items())}")
    if chosen.picture:
        cv2.imwrite(str(chosen.picture), picture(skeletons, 14))


if __name__ == "__main__":
    main()
