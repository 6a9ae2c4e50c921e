"""Bodies in 3D, and their movements from one posture to another.

All bodies are arrays of the joints of `JOINTS` in metres. The y axis points up, and the ground is at 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.training.skeletons import joints_at, turned

Joints = NDArray[np.float64]
"""`[T, 18, 3]`, or `[18, 3]` for one moment."""

JOINTS = ("head", "neck", "spine", "hips", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
          "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_foot",
          "right_foot")  # fmt: skip
AT = {name: number for number, name in enumerate(JOINTS)}
FEET = [AT[name] for name in ("left_foot", "right_foot", "left_ankle", "right_ankle")]
_BELOW_HIPS = [AT[f"{side}_{name}"] for name in ("knee", "ankle", "foot") for side in ("left", "right")]
_ABOVE_LEGS = [number for number in range(len(JOINTS)) if number not in _BELOW_HIPS]
# Where the middle of the hips is when somebody lies.
_HIPS_OF_LYING_M = 0.1
# A cycle is one stride of each leg. At 30 moments a second, fewer than these would be the stride of one.
_SHORTEST_CYCLE = 18
_TRUNK = [number for name, number in AT.items() if number not in _BELOW_HIPS and "hip" not in name]


def stretched(take: Joints, n: int) -> Joints:
    """Return a take that lasts so many steps."""
    return joints_at(take, np.linspace(0, len(take) - 1, n))


def one_cycle(take: Joints) -> Joints:
    """Return the part of a walk after which the posture is again as at its start; nearly all of a short one.

    What the postures still differ by is made up for little by little.
    """
    middle = take[len(take) // 10 : max(6, len(take) * 9 // 10)]
    posture = middle - middle[:, [AT["hips"]]]
    later = range(min(_SHORTEST_CYCLE, len(middle) - 1), len(middle))
    n = min(later, key=lambda step: float(np.square(posture[step] - posture[0]).sum()))
    rest = (posture[n] - posture[0]) * (np.arange(n) / n)[:, None, None]
    cycle: Joints = middle[:n] - rest
    return cycle


def on_and_on(cycle: Joints, n: int) -> Joints:
    """Return somebody who repeats one cycle of a walk for so many steps."""
    way = cycle[:, AT["hips"]] * [1, 0, 1]
    stride = (way[-1] - way[0]) * len(cycle) / (len(cycle) - 1)
    return np.concatenate([cycle + number * stride for number in range(n // len(cycle) + 1)])[:n]


def with_smaller_steps(walk: Joints, share: float) -> Joints:
    """Return somebody whose limbs, and who, come this share of the way in the same time."""
    hips = walk[:, [AT["hips"]]]
    posture = walk - hips
    mean = posture.mean(axis=0)
    smaller: Joints = hips * [share, 1, share] + mean + share * (posture - mean)
    return smaller


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
            root, middle, *ends = (AT[f"{side}_{name}"] for name in chain)
            above = turned(axis, rng.normal(0, upper))
            below = turned(axis, rng.normal(0, lower)) @ above
            anyhow[middle] = body[root] + above @ (body[middle] - body[root])
            for end in ends:
                anyhow[end] = anyhow[middle] + below @ (body[end] - body[middle])
    return anyhow


def brought_down(rng: np.random.Generator, last: Joints, n: int, seated: bool, slowly: bool = False) -> Joints:
    """Return how somebody, `[18, 3]`, comes to lie within some steps: turned about the feet or the seat."""
    towards = rng.uniform(0, 2 * np.pi)
    axis = np.array([np.cos(towards), 0, np.sin(towards)])
    end = sprawled(last, rng)
    feet = last[FEET[:2]].mean(axis=0)
    pivot = last[AT["hips"]] * [1, 0.3, 1] if seated else feet
    whole = rng.uniform(np.radians(72), np.radians(98))
    sinking = rng.uniform(0, 0.35) * np.linalg.norm(last[AT["hips"]] - feet)
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


def rolled(lying: Joints, n: int, drop_m: float, edge: float, rng: np.random.Generator) -> Joints:
    """Return how somebody who lies, `[18, 3]`, rolls to a side within some steps, and drops from a bed to the ground.

    Args:
        lying: Who lies, on the ground or on a bed.
        n: Number of steps.
        drop_m: Height of the bed. 0: somebody turns over where they are.
        edge: After this share of the steps somebody drops.
        rng: Where to, how far, and how the limbs lie in the end.
    """
    along = (lying[AT["neck"]] - lying[AT["hips"]]) * [1, 0, 1]
    along /= max(1e-6, float(np.linalg.norm(along)))
    side, end = rng.choice([-1, 1]), sprawled(lying, rng)
    aside = side * np.cross(along, [0, 1, 0]) * (rng.uniform(0, 0.25) + (rng.uniform(0.4, 0.7) if drop_m else 0))
    whole = side * rng.uniform(np.radians(60), np.radians(200))
    middle, surface = lying[AT["hips"]], float(lying[:, 1].min())
    bodies = []
    for x in np.linspace(0, 1, n):
        share = x * x * (3 - 2 * x)
        body = (lying * (1 - share) + end * share - middle) @ turned(along, whole * share).T + middle + aside * share
        # Over the edge of the bed, somebody drops ever faster.
        height = surface - (drop_m * ((x - edge) / (1 - edge)) ** 2 if x > edge else 0)
        body[:, 1] += height - surface + share * (_HIPS_OF_LYING_M - middle[1] + surface)
        body[:, 1] = np.maximum(body[:, 1], height)
        bodies.append(body)
    return np.array(bodies)


def sunk(body: Joints, n: int, rng: np.random.Generator) -> Joints:
    """Return how somebody's legs give way, `[n, 18, 3]`: the feet stay, and the seat hits the ground."""
    low, half = seated_on_the_ground(body, rng), squatting(body, rng)
    low += (body[FEET].mean(axis=0) - low[FEET].mean(axis=0)) * [1, 0, 1]
    return np.concatenate([between(body, half, n // 2), between(half, low, n - n // 2 + 1)[1:]])


def toppled(low: Joints, n: int, rng: np.random.Generator) -> Joints:
    """Return how the trunk of somebody who sits on the ground, `[18, 3]`, topples back or to a side."""
    angle = rng.uniform(-1.8, 1.8)
    towards = turned(np.array([0.0, 1, 0]), angle) @ -facing(low)
    axis, whole = np.cross([0, 1, 0], towards), rng.uniform(np.radians(80), np.radians(105))
    end, hips = sprawled(low, rng), low[AT["hips"]]
    bodies = []
    for share in np.linspace(0, 1, n) ** rng.uniform(1.3, 2.2):
        body = low * (1 - share) + end * share
        body[_TRUNK] = (body[_TRUNK] - hips) @ turned(axis, whole * share).T + hips
        body[:, 1] = np.maximum(body[:, 1], 0)
        bodies.append(body)
    return np.array(bodies)


def leaning(body: Joints, radians: float, ahead: Joints) -> Joints:
    """Return somebody, `[18, 3]`, whose trunk leans forward from the hips by an angle."""
    axis = np.cross(ahead, [0, 1, 0])
    hips = body[AT["hips"]]
    tried = [(body[_TRUNK] - hips) @ turned(axis, sign * radians).T + hips for sign in (1, -1)]
    leant = body.copy()
    leant[_TRUNK] = max(tried, key=lambda trunk: float(((trunk - hips) @ ahead).mean()))
    return leant


def facing(body: Joints) -> Joints:
    """Return the level direction, `[3]`, that somebody faces."""
    ahead = np.cross(body[AT["right_hip"]] - body[AT["left_hip"]], [0, 1, 0])
    unit: Joints = ahead / max(1e-6, float(np.linalg.norm(ahead)))
    return unit


def bent(body: Joints, rng: np.random.Generator) -> Joints:
    """Return somebody who bends down over nearly straight legs, the arms hanging."""
    ahead = facing(body)
    low = leaning(body, rng.uniform(0.9, 1.9), ahead)
    for side in ("left", "right"):
        shoulder, elbow, wrist = (AT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
        down = np.array([0, -1, 0]) + rng.normal(0, 0.35, 3)
        for above, below in ((shoulder, elbow), (elbow, wrist)):
            low[below] = low[above] + down / np.linalg.norm(down) * np.linalg.norm(body[below] - body[above])
            down = down + rng.normal(0, 0.25, 3)
    return lowered(low, rng.uniform(0, 0.22), rng.uniform(0, 0.15), 0.15, ahead)


def squatting(body: Joints, rng: np.random.Generator) -> Joints:
    """Return somebody who squats or kneels."""
    ahead = facing(body)
    low = lowered(body, rng.uniform(0.35, 0.75), rng.uniform(0, 0.2), 0.3, ahead)
    return leaning(low, rng.uniform(0, 1.1), ahead)


def lowered(body: Joints, share: float, back_m: float, knees_m: float, ahead: Joints) -> Joints:
    """Return somebody whose hips are lower by a share of their height, the knees ahead of the feet by up to so much."""
    low = body.copy()
    low[_ABOVE_LEGS, 1] -= share * body[AT["hips"], 1]
    low[_ABOVE_LEGS] -= back_m * ahead
    for side in ("left", "right"):
        ends = low[AT[f"{side}_hip"]] + low[AT[f"{side}_ankle"]]
        low[AT[f"{side}_knee"]] = ends / 2 + ahead * knees_m * min(1, 2 * share + 0.1)
    low[:, 1] -= min(0, low[:, 1].min())
    return low


def seated_on_the_ground(body: Joints, rng: np.random.Generator) -> Joints:
    """Return somebody who sits on the ground, the legs ahead."""
    ahead, low = facing(body), body.copy()
    low[_ABOVE_LEGS, 1] -= body[AT["hips"], 1] - rng.uniform(0.08, 0.18)
    bend = rng.uniform(0, 0.45)
    for side in ("left", "right"):
        hip, knee, ankle, foot = (AT[f"{side}_{name}"] for name in ("hip", "knee", "ankle", "foot"))
        low[knee] = low[hip] + ahead * 0.42 * np.cos(bend) + [0, 0.42 * np.sin(bend), 0]
        low[ankle] = (low[knee] + ahead * 0.42 * np.cos(bend)) * [1, 0, 1] + [0, 0.08, 0]
        low[foot] = low[ankle] + ahead * 0.1 + [0, 0.08, 0]
    return leaning(low, rng.uniform(-0.4, 0.4), ahead)


def hanging(bodies: Joints) -> Joints:
    """Return somebody who holds a bar above the head with straight arms where they are lowest, bent ones elsewhere."""
    held = bodies.copy()
    across = bodies[:, AT["left_shoulder"]] - bodies[:, AT["right_shoulder"]]
    for side, sign in (("left", 1), ("right", -1)):
        shoulder, elbow, wrist = (AT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
        upper, lower = (
            float(np.linalg.norm(bodies[0, one] - bodies[0, other]))
            for one, other in ((shoulder, elbow), (elbow, wrist))
        )
        lowest = bodies[bodies[:, shoulder, 1].argmin(), shoulder]
        bar = lowest + np.array([0, 0.99 * (upper + lower), 0])
        reach = bar - bodies[:, shoulder]
        far = np.linalg.norm(reach, axis=1, keepdims=True).clip(abs(upper - lower) + 1e-3, upper + lower)
        # The elbow is where both parts of the arm meet, at a side.
        along = (upper**2 - lower**2 + far**2) / (2 * far)
        aside = sign * across / np.linalg.norm(across, axis=1, keepdims=True)
        held[:, elbow] = bodies[:, shoulder] + along * reach / far + np.sqrt((upper**2 - along**2).clip(0)) * aside
        held[:, wrist] = bar
    return held


def limbs_moving(bodies: Joints, arms: float, legs: float, rng: np.random.Generator, hz: int) -> Joints:
    """Return somebody, `[T, 18, 3]`, who moves the limbs, by up to so many radians at each joint."""
    moved, seconds = bodies.copy(), np.arange(len(bodies)) / hz
    for side in ("left", "right"):
        for chain, most in ((("shoulder", "elbow", "wrist"), arms), (("hip", "knee", "ankle", "foot"), legs)):
            joints = [AT[f"{side}_{name}"] for name in chain]
            for number in range(len(joints) - 1):
                axis = rng.normal(size=3)
                swing = rng.uniform(0, most) * _waves(seconds, rng)
                _turn(moved, joints[number], joints[number + 1 :], axis / np.linalg.norm(axis), swing)
    return moved


def _waves(seconds: Joints, rng: np.random.Generator) -> Joints:
    """Return something between -1 and 1 that goes up and down, now faster and now slower."""
    slow, fast = rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.6)
    turns = [rate * seconds + rng.uniform(0, 1) for rate in (slow, fast)]
    return 0.6 * np.sin(2 * np.pi * turns[0]) + 0.4 * np.sin(2 * np.pi * turns[1])


def _turn(bodies: Joints, root: int, joints: list[int], axis: Joints, radians: Joints) -> None:
    """Turn joints about one of them, by an angle for each step (Rodrigues)."""
    arms = bodies[:, joints] - bodies[:, [root]]
    sine, cosine = np.sin(radians)[:, None, None], np.cos(radians)[:, None, None]
    along = (arms @ axis)[..., None] * axis
    bodies[:, joints] = bodies[:, [root]] + arms * cosine + np.cross(axis, arms) * sine + along * (1 - cosine)
