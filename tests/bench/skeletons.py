"""Make the skeletons that the bundled model of everyday activities learns from beside videos.

    python -m tests.bench.skeletons ../shared/data/skeletons OUT.npz [--picture OUT.png]

Two data sets hold people who walk, sit down, get up, bend, wave and do much else before a depth camera. Nobody falls in
them: real people who stand, walk or sit are brought to the ground about their feet or seat in 0.4 to 1.4 s, in every
direction, and lie there. What is taken for a fall by mistake is made, too: lying down slowly, squatting, bending.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.training.sequences import IGNORE
from pipeline.training.skeletons import Skeletons, joints_at, look_at, turned
from pipeline.vision.keypoints import BONES, KEYPOINTS

Joints = NDArray[np.float64]
"""`[T, 18, 3]` in metres, y up: the joints of `JOINTS`."""
Script = list[tuple[Joints, str]]
"""What somebody does, one thing after the other."""

JOINTS = ("head", "neck", "spine", "hips", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
          "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_foot",
          "right_foot")  # fmt: skip
_AT = {name: number for number, name in enumerate(JOINTS)}
_ORDER = {
    "utkinect": (3, 2, 1, 0, 4, 8, 5, 9, 6, 10, 12, 16, 13, 17, 14, 18, 15, 19),
    "msr_action3d": (19, 2, 3, 6, 0, 1, 7, 8, 9, 10, 4, 5, 13, 14, 15, 16, 17, 18),
}
"""Where each data set has them; it has all of a torso's length brought to `_TORSO_M`."""
_TORSO_M = 0.5
_HZ, _WRITTEN_HZ = 30, 15
_FEET = [_AT[name] for name in ("left_foot", "right_foot", "left_ankle", "right_ankle")]
_BELOW_HIPS = [_AT[f"{side}_{name}"] for name in ("knee", "ankle", "foot") for side in ("left", "right")]
_ABOVE_LEGS = [number for number in range(len(JOINTS)) if number not in _BELOW_HIPS]
_TRUNK = [number for name, number in _AT.items() if number not in _BELOW_HIPS and "hip" not in name]
NAMES = (
    BACKGROUND,
    "bend",
    "climb",
    "fall",
    "get_up",
    "jump",
    "lie",
    "run",
    "sit",
    "sit_down",
    "stand",
    "walk",
    "wave",
)
NEEDS_LEGS = ("climb", "run", "sit", "stand", "walk")

UPRIGHT = ("draw_circle", "draw_tick", "draw_x", "forward_punch", "hand_catch", "hand_clap", "hammer", "high_throw",
           "tennis_swing", "golf_swing", "side_boxing", "clapHands", "throw", "push", "pull")  # fmt: skip
WAVES = ("high_arm_wave", "horizontal_arm_wave", "two_hand_wave", "waveHands")


@dataclass
class Cast:
    """Who is there to play a script."""

    takes: dict[str, list[Joints]]
    rng: np.random.Generator

    def take(self, *labels: str) -> Joints:
        """Return one of those who do such a thing, standing on the ground."""
        takes = [take for label in labels for take in self.takes[label]]
        chosen = takes[self.rng.integers(len(takes))].copy()
        chosen[..., 1] -= np.percentile(chosen[:, _FEET, 1], 20)
        chosen[..., [0, 2]] -= chosen[0, _AT["hips"], [0, 2]]
        return chosen

    def steps(self, least_s: float, most_s: float) -> int:
        """Return how many steps something takes."""
        return int(_HZ * self.rng.uniform(least_s, most_s))

    def chance(self, share: float) -> bool:
        """Whether something happens that does so often."""
        return bool(self.rng.random() < share)

    def slower(self, take: Joints, least: float, most: float) -> Joints:
        """Return a take that lasts longer, by a factor."""
        return stretched(take, max(15, int(len(take) * self.rng.uniform(least, most))))

    def held(self, body: Joints, n: int, sway_m: float = 0.008) -> Joints:
        """Return somebody, `[18, 3]`, who keeps still for some steps, as far as people do."""
        sway = np.cumsum(self.rng.normal(0, sway_m, (n, 1, 3)), axis=0) / 2
        return body + sway + self.rng.normal(0, 0.006, (n, len(JOINTS), 3))

    def standing(self, n: int) -> Joints:
        """Return somebody who stands, still or with something in hand."""
        if self.chance(0.5):
            return self.held(self.take(*UPRIGHT)[0], n)
        take = self.slower(self.take(*UPRIGHT), 1, 1.6)
        return np.concatenate([take] * (n // len(take) + 1))[:n]

    def walking(self, n: int, label: str = "walk") -> Joints:
        """Return somebody who walks on and on."""
        take = self.take(label)
        take = take[len(take) // 10 : max(6, len(take) * 9 // 10)]
        stride = (take[-1, _AT["hips"]] - take[0, _AT["hips"]]) * [1, 0, 1]
        return np.concatenate([take + number * stride for number in range(n // len(take) + 1)])[:n]

    def seated(self) -> Joints:
        """Return somebody who sits, `[18, 3]`."""
        return self.take("sitDown")[-1] if self.chance(0.5) else self.take("standUp")[0]


def stretched(take: Joints, n: int) -> Joints:
    """Return a take that lasts so many steps."""
    return joints_at(take, np.linspace(0, len(take) - 1, n))


def between(one: Joints, other: Joints, n: int) -> Joints:
    """Return how somebody comes from one posture `[18, 3]` into another, gently."""
    x = np.linspace(0, 1, n)[:, None, None]
    x = x * x * (3 - 2 * x)
    return one * (1 - x) + other * x


def sprawled(body: Joints, rng: np.random.Generator) -> Joints:
    """Return somebody, `[18, 3]`, with the limbs anyhow."""
    anyhow = body.copy()
    for side in ("left", "right"):
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        for chain, upper, lower in (
            (("hip", "knee", "ankle", "foot"), 0.5, 0.8),
            (("shoulder", "elbow", "wrist"), 0.9, 0.9),
        ):
            root, middle, *ends = (_AT[f"{side}_{name}"] for name in chain)
            above = turned(axis, rng.normal(0, upper))
            below = turned(axis, rng.normal(0, lower)) @ above
            anyhow[middle] = body[root] + above @ (body[middle] - body[root])
            for end in ends:
                anyhow[end] = anyhow[middle] + below @ (body[end] - body[middle])
    return anyhow


def brought_down(cast: Cast, last: Joints, n: int, seated: bool, slowly: bool = False) -> Joints:
    """Return how somebody, `[18, 3]`, comes to lie within some steps: turned about the feet or the seat."""
    rng = cast.rng
    towards = rng.uniform(0, 2 * np.pi)
    axis = np.array([np.cos(towards), 0, np.sin(towards)])
    end = sprawled(last, rng)
    feet = last[_FEET[:2]].mean(axis=0)
    pivot = last[_AT["hips"]] * [1, 0.3, 1] if seated else feet
    whole = rng.uniform(np.radians(72), np.radians(98))
    sinking = rng.uniform(0, 0.35) * np.linalg.norm(last[_AT["hips"]] - feet)
    x = np.linspace(0, 1, n + 1)[1:]
    # Who falls gets faster, who lies down does not.
    progress = x * x * (3 - 2 * x) if slowly else x ** rng.uniform(1.3, 2.2)
    bodies = []
    for share, part in zip(progress, x, strict=True):
        body = (last * (1 - share) + end * share - pivot) @ turned(axis, whole * share).T + pivot
        body[:, 1] -= 0.6 * sinking * np.sin(np.pi * part)
        body[:, 1] -= min(0, body[:, 1].min())
        bodies.append(body)
    lying = bodies[-1].copy()
    lying[:, 1] *= rng.uniform(0.5, 1)
    lying[:, 1] -= lying[:, 1].min()
    bodies[-1] = (bodies[-1] + lying) / 2
    return np.array([*bodies, lying])


def leaning(body: Joints, radians: float, ahead: Joints) -> Joints:
    """Return somebody, `[18, 3]`, whose trunk leans forward from the hips by an angle."""
    axis = np.cross(ahead, [0, 1, 0])
    hips = body[_AT["hips"]]
    tried = [(body[_TRUNK] - hips) @ turned(axis, sign * radians).T + hips for sign in (1, -1)]
    leant = body.copy()
    leant[_TRUNK] = max(tried, key=lambda trunk: float(((trunk - hips) @ ahead).mean()))
    return leant


def facing(body: Joints) -> Joints:
    """Return the level direction, `[3]`, that somebody faces."""
    ahead = np.cross(body[_AT["right_hip"]] - body[_AT["left_hip"]], [0, 1, 0])
    unit: Joints = ahead / max(1e-6, float(np.linalg.norm(ahead)))
    return unit


def bent(body: Joints, rng: np.random.Generator) -> Joints:
    """Return somebody who bends down over nearly straight legs, the arms hanging."""
    ahead = facing(body)
    low = leaning(body, rng.uniform(0.9, 1.9), ahead)
    for side in ("left", "right"):
        shoulder, elbow, wrist = (_AT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
        down = np.array([0, -1, 0]) + rng.normal(0, 0.35, 3)
        for above, below in ((shoulder, elbow), (elbow, wrist)):
            low[below] = low[above] + down / np.linalg.norm(down) * np.linalg.norm(body[below] - body[above])
            down = down + rng.normal(0, 0.25, 3)
    return _lowered(low, rng.uniform(0, 0.22), rng.uniform(0, 0.15), 0.15, ahead)


def squatting(body: Joints, rng: np.random.Generator) -> Joints:
    """Return somebody who squats or kneels."""
    ahead = facing(body)
    low = _lowered(body, rng.uniform(0.35, 0.75), rng.uniform(0, 0.2), 0.3, ahead)
    return leaning(low, rng.uniform(0, 1.1), ahead)


def _lowered(body: Joints, share: float, back_m: float, knees_m: float, ahead: Joints) -> Joints:
    """Return somebody whose hips are lower by a share of their height, the knees ahead of the feet by up to so much."""
    low = body.copy()
    low[_ABOVE_LEGS, 1] -= share * body[_AT["hips"], 1]
    low[_ABOVE_LEGS] -= back_m * ahead
    for side in ("left", "right"):
        ends = low[_AT[f"{side}_hip"]] + low[_AT[f"{side}_ankle"]]
        low[_AT[f"{side}_knee"]] = ends / 2 + ahead * knees_m * min(1, 2 * share + 0.1)
    low[:, 1] -= min(0, low[:, 1].min())
    return low


def fall(cast: Cast) -> Script:
    """Somebody stands, walks or sits, falls, and lies."""
    before = cast.rng.random()
    if before < 0.4:
        script = [(cast.standing(cast.steps(0.3, 2.5)), "stand")]
    elif before < 0.75:
        script = [(cast.walking(cast.steps(0.6, 2.5)), "walk")]
    else:
        script = [(cast.held(cast.seated(), cast.steps(0.3, 2.5)), "sit")]
    (upright, label), *_ = script
    down = brought_down(cast, upright[-1], cast.steps(0.45, 1.4), label == "sit")
    return [*script, (down[:-1], "fall"), (cast.held(down[-1], cast.steps(0.3, 4), 0.003), "lie")]


def lie(cast: Cast) -> Script:
    """Somebody lies, perhaps having lain down slowly."""
    seated = cast.chance(0.5)
    body = cast.seated() if seated else cast.take(*UPRIGHT)[0]
    down = brought_down(cast, body, cast.steps(2.2, 4), seated, slowly=True)
    lying = (cast.held(down[-1], cast.steps(1, 5), 0.003), "lie")
    if cast.chance(0.5):
        return [lying]
    return [(cast.held(body, cast.steps(0.3, 1.5)), BACKGROUND), (down[:-1], BACKGROUND), lying]


def stand(cast: Cast) -> Script:
    """Somebody stands."""
    return [(cast.standing(cast.steps(1, 5)), "stand")]


def walk(cast: Cast) -> Script:
    """Somebody walks, and perhaps stops."""
    walking = cast.walking(cast.steps(1, 4))
    if cast.chance(0.6):
        return [(walking, "walk")]
    there = walking[-1, _AT["hips"]] * [1, 0, 1]
    return [(walking, "walk"), (cast.standing(cast.steps(0.5, 2)) + there, "stand")]


def run(cast: Cast) -> Script:
    """Somebody runs: those before the camera did so in place."""
    running = cast.walking(cast.steps(0.6, 2.5), "jog")
    return [(running + _moving(len(running), facing(running[0]) * cast.rng.uniform(1.5, 4.5)), "run")]


def climb(cast: Cast) -> Script:
    """Somebody climbs stairs, or goes down: walks, and is higher or lower after each step."""
    walking = cast.walking(cast.steps(0.8, 3))
    rise = np.array([0, cast.rng.uniform(0.3, 0.8) * (1 if cast.chance(0.75) else -1), 0])
    return [(walking + _moving(len(walking), rise), "climb")]


def jump(cast: Cast) -> Script:
    """Somebody jumps, perhaps ahead, perhaps more than once."""
    body = cast.take(*UPRIGHT)[0]
    low = _lowered(body, cast.rng.uniform(0.1, 0.35), 0, 0.2, facing(body))
    low = leaning(low, cast.rng.uniform(0, 0.6), facing(body))
    n, n_air = cast.steps(0.2, 0.5), cast.steps(0.35, 0.65)
    height = 9.81 * (n_air / _HZ) ** 2 / 8
    x = np.linspace(-1, 1, n_air)[:, None, None]
    rise = height * (1 - x * x) * np.array([0, 1, 0])
    leap = np.concatenate(
        [between(body, low, n), between(low, body, max(3, n // 3)), body + rise, between(body, low, n)]
    )
    leap = np.concatenate([leap, *([between(low, body, n), leap] if cast.chance(0.4) else [])])
    return [(leap + _moving(len(leap), facing(body) * cast.rng.choice([0, cast.rng.uniform(0.5, 3)])), "jump")]


def _moving(n: int, metres_a_second: Joints) -> Joints:
    """Return how far somebody has come at each of some steps, `[n, 1, 3]`."""
    far: Joints = np.arange(n)[:, None, None] / _HZ * metres_a_second
    return far


def sit(cast: Cast) -> Script:
    """Somebody sits."""
    return [(cast.held(cast.seated(), cast.steps(1, 5)), "sit")]


def sit_down(cast: Cast) -> Script:
    """Somebody sits down, and perhaps stays."""
    down = cast.slower(cast.take("sitDown"), 1.2, 2.2)
    after = [(cast.held(down[-1], cast.steps(0.5, 2)), "sit")] if cast.chance(0.6) else []
    return [(down, "sit_down"), *after]


def get_up(cast: Cast) -> Script:
    """Somebody gets up from a seat."""
    up = cast.slower(cast.take("standUp"), 1.2, 2.2)
    before = [(cast.held(up[0], cast.steps(0.5, 2)), "sit")] if cast.chance(0.6) else []
    after = [(cast.held(up[-1], cast.steps(0.5, 1.5)), "stand")] if cast.chance(0.4) else []
    return [*before, (up, "get_up"), *after]


def bend(cast: Cast) -> Script:
    """Somebody bends down, standing or sitting, for a while."""
    if cast.chance(0.45):
        return [(cast.slower(cast.take("pickUp", "bend", "pick_up_and_throw"), 0.9, 1.6), "bend")]
    seated = cast.chance(0.2)
    body = cast.seated() if seated else cast.take(*UPRIGHT)[0]
    return _there_and_back(cast, body, bent(body, cast.rng), "sit" if seated else "stand", "bend")


def squat(cast: Cast) -> Script:
    """Somebody squats or kneels: nothing that has a name here."""
    body = cast.take(*UPRIGHT)[0]
    return _there_and_back(cast, body, squatting(body, cast.rng), "stand", BACKGROUND)


def kick(cast: Cast) -> Script:
    """Somebody kicks: nothing that has a name here."""
    return [(cast.slower(cast.take("forward_kick", "side_kick"), 0.8, 1.3), BACKGROUND)]


def wave(cast: Cast) -> Script:
    """Somebody waves."""
    return [(cast.slower(cast.take(*WAVES), 0.8, 1.3), "wave")]


def _there_and_back(cast: Cast, body: Joints, low: Joints, above: str, below: str) -> Script:
    n = cast.steps(0.35, 1.2)
    script = [(cast.held(low, cast.steps(0.2, 2), 0.012), below)]
    if cast.chance(0.75):
        script = [(cast.held(body, cast.steps(0.2, 1.5)), above), (between(body, low, n), below), *script]
    if cast.chance(0.75):
        script = [*script, (between(low, body, n), below), (cast.held(body, cast.steps(0.2, 1.5)), above)]
    return script


SHARES: dict[Callable[[Cast], Script], float] = {
    fall: 0.22, lie: 0.06, stand: 0.09, walk: 0.10, run: 0.06, climb: 0.04, jump: 0.05, sit: 0.07, sit_down: 0.06,
    get_up: 0.06, bend: 0.09, squat: 0.06, kick: 0.02, wave: 0.04,
}  # fmt: skip
"""How often each is played."""


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
                torso = joints[:, _AT["neck"]] - joints[:, _AT["hips"]]
                size = np.median(np.linalg.norm(torso, axis=1)) if len(joints) >= 6 else 0
                if size > 0.1:
                    # x is turned round: as the camera has it, faces would look over people's heels.
                    takes.setdefault(str(label), []).append(joints * (_TORSO_M / size) * [-1, 1, 1])
    return takes


def keypoints_of(joints: Joints) -> NDArray[np.float32]:
    """Return COCO's keypoints `float32 [T, 17, 3]`; the face is put where it must be."""
    up = joints[:, _AT["neck"]] - joints[:, _AT["hips"]]
    left = joints[:, _AT["left_shoulder"]] - joints[:, _AT["right_shoulder"]]
    up, left = (axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-6) for axis in (up, left))
    ahead, head = np.cross(up, left), joints[:, _AT["head"]]
    face = {
        "nose": head + 0.1 * ahead,
        "left_eye": head + 0.08 * ahead + 0.03 * left + 0.03 * up,
        "right_eye": head + 0.08 * ahead - 0.03 * left + 0.03 * up,
        "left_ear": head + 0.07 * left,
        "right_ear": head - 0.07 * left,
    }
    return np.stack([face[n] if n in face else joints[:, _AT[n]] for n in KEYPOINTS], axis=1).astype(np.float32)


def play(takes: dict[str, list[Joints]], n: int, seed: int) -> Skeletons:
    """Return so many sequences."""
    rng = np.random.default_rng(seed)
    cast, scripts, shares = Cast(takes, rng), list(SHARES), np.array(list(SHARES.values()))
    joints, label_ids, lengths = [], [], []
    for number in rng.choice(len(scripts), n, p=shares / shares.sum()):
        script = scripts[number](cast)
        played = np.concatenate([part for part, _ in script])[:: _HZ // _WRITTEN_HZ]
        ids = np.concatenate([np.full(len(part), NAMES.index(label)) for part, label in script])[:: _HZ // _WRITTEN_HZ]
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
    parser.add_argument("--sequences", type=int, default=3000)
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
