"""Scripts of short scenes for a simulated camera, played by the people of two data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.activity.bundle import BACKGROUND
from tests.bench.bodies import (
    AT,
    FEET,
    JOINTS,
    Joints,
    bent,
    between,
    brought_down,
    facing,
    hanging,
    leaning,
    limbs_moving,
    lowered,
    on_and_on,
    one_cycle,
    rolled,
    seated_on_the_ground,
    squatting,
    stretched,
    sunk,
    toppled,
    with_smaller_steps,
)

Script = list[tuple[Joints, str]]
"""What somebody does, one thing after the other."""
HZ = 30
"""Steps per second."""
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
        chosen[..., 1] -= np.percentile(chosen[:, FEET, 1], 20)
        chosen[..., [0, 2]] -= chosen[0, AT["hips"], [0, 2]]
        return chosen

    def steps(self, least_s: float, most_s: float) -> int:
        """Return how many steps something takes."""
        return int(HZ * self.rng.uniform(least_s, most_s))

    def chance(self, share: float) -> bool:
        """Whether something happens that does so often."""
        return bool(self.rng.random() < share)

    def slower(self, take: Joints, least: float, most: float) -> Joints:
        """Return a take that lasts longer, by a factor."""
        return stretched(take, max(15, int(len(take) * self.rng.uniform(least, most))))

    def held(self, body: Joints, n: int, sway_m: float = 0.008) -> Joints:
        """Return somebody, `[18, 3]`, who keeps still for some steps, as far as people do."""
        sway = np.cumsum(self.rng.normal(0, sway_m, (n, 1, 3)), axis=0) / 2
        return body + sway + self.rng.normal(0, 0.003, (n, len(JOINTS), 3))

    def stirring(self, body: Joints, n: int, arms: float, legs: float = 0.1) -> Joints:
        """Return somebody, `[18, 3]`, who stays so for some steps, but moves the limbs: more or less, or not at all."""
        least = self.rng.uniform(0, 1) ** 2
        return limbs_moving(self.held(body, n, 0.004), arms * least, legs * least, self.rng, HZ)

    def standing(self, n: int) -> Joints:
        """Return somebody who stands, still or with something in hand."""
        if self.chance(0.6):
            return self.stirring(self.take(*UPRIGHT)[0], n, 1.2)
        take = self.slower(self.take(*UPRIGHT), 1, 1.6)
        # The way back joins the end to the start, which differ.
        return np.concatenate([take, take[::-1]] * (n // len(take) + 1))[:n]

    def walking(self, n: int) -> Joints:
        """Return somebody who walks on and on: those before the camera did so briskly, people at home stroll."""
        cycle = self.slower(one_cycle(self.take("walk")), 0.9, 1.5)
        return on_and_on(with_smaller_steps(cycle, self.rng.uniform(0.5, 1)), n)

    def seated(self) -> Joints:
        """Return somebody who sits, `[18, 3]`."""
        return self.take("sitDown")[-1] if self.chance(0.5) else self.take("standUp")[0]


def fall(cast: Cast) -> Script:
    """Somebody stands, walks or sits, falls, and lies."""
    before = cast.rng.random()
    if before < 0.4:
        script = [(cast.standing(cast.steps(0.3, 2.5)), "stand")]
    elif before < 0.75:
        script = [(cast.walking(cast.steps(0.6, 2.5)), "walk")]
    else:
        script = [(cast.stirring(cast.seated(), cast.steps(0.3, 2.5), 0.8), "sit")]
    (upright, label), *_ = script
    down = brought_down(cast.rng, upright[-1], cast.steps(0.45, 1.4), label == "sit")
    return [*script, (down[:-1], "fall"), (cast.stirring(down[-1], cast.steps(0.3, 4), 0.9, 0.6), "lie")]


def collapse(cast: Cast) -> Script:
    """Somebody stands or walks, the legs give way, and the trunk topples."""
    script = [(cast.standing(cast.steps(0.3, 2.5)), "stand")]
    if cast.chance(0.4):
        script = [(cast.walking(cast.steps(0.6, 2)), "walk")]
    ((upright, _),) = script
    sinking = sunk(upright[-1], cast.steps(0.3, 0.8), cast.rng)
    down = toppled(sinking[-1], cast.steps(0.3, 0.8), cast.rng)
    falling = np.concatenate([sinking, down[1:]])
    return [*script, (falling, "fall"), (cast.stirring(down[-1], cast.steps(0.3, 4), 0.9, 0.6), "lie")]


def roll_out_of_bed(cast: Cast) -> Script:
    """Somebody lies, drops from the bed, and lies on the ground."""
    high, edge = cast.rng.uniform(0.3, 0.65), cast.rng.uniform(0.2, 0.5)
    before = cast.stirring(_lying(cast) + np.array([0, high, 0]), cast.steps(0.4, 3), 1.0, 0.6)
    down = rolled(before[-1], cast.steps(0.6, 1.3), high, edge, cast.rng)
    begins = int(edge * len(down))
    after = cast.stirring(down[-1], cast.steps(0.4, 4), 0.9, 0.6)
    return [(before, "lie"), (down[:begins], "lie"), (down[begins:], "fall"), (after, "lie")]


def turn_over(cast: Cast) -> Script:
    """Somebody lies, and turns over once or more: nobody falls."""
    parts = [cast.stirring(_lying(cast), cast.steps(0.4, 2), 1.0, 0.6)]
    for _ in range(cast.rng.integers(1, 4)):
        parts.append(rolled(parts[-1][-1], cast.steps(0.6, 2.5), 0, 1, cast.rng))
        parts.append(cast.stirring(parts[-1][-1], cast.steps(0.3, 2), 1.0, 0.6))
    return [(np.concatenate(parts), "lie")]


def _lying(cast: Cast) -> Joints:
    lying: Joints = brought_down(cast.rng, cast.take(*UPRIGHT)[0], 2, False, slowly=True)[-1]
    return lying


def lie(cast: Cast) -> Script:
    """Somebody lies, perhaps having lain down slowly, perhaps by way of the ground's seat."""
    seated = cast.chance(0.5)
    body = cast.seated() if seated else cast.take(*UPRIGHT)[0]
    if cast.chance(0.3):
        low = seated_on_the_ground(body, cast.rng)
        down = brought_down(cast.rng, low, cast.steps(0.8, 2.5), True, slowly=True)
        down = np.concatenate([between(body, low, cast.steps(0.7, 2)), down])
    else:
        down = brought_down(cast.rng, body, cast.steps(2.2, 4), seated, slowly=True)
    lying = (cast.stirring(down[-1], cast.steps(1, 5), 1.0, 0.6), "lie")
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
    standing = cast.standing(cast.steps(0.5, 2)) + _place(walking[-1])
    stopping = between(walking[-1], standing[0], cast.steps(0.2, 0.5))
    return [(walking, "walk"), (np.concatenate([stopping, standing]), "stand")]


def run(cast: Cast) -> Script:
    """Somebody runs: those before the camera did so in place, and not in haste. Cameras often keep up with a runner."""
    n = cast.steps(0.6, 2.5)
    running = stretched(on_and_on(one_cycle(cast.take("jog")), int(n * cast.rng.uniform(1, 1.7))), n)
    return [
        (
            running
            + _moving(
                len(running), facing(running[0]) * cast.rng.choice([cast.rng.uniform(0, 1), cast.rng.uniform(1.5, 4)])
            ),
            "run",
        )
    ]


def climb(cast: Cast) -> Script:
    """Somebody climbs stairs, or goes down: walks, and is higher or lower after each step."""
    walking = cast.walking(cast.steps(0.8, 3))
    rise = np.array([0, cast.rng.uniform(0.3, 0.8) * (1 if cast.chance(0.75) else -1), 0])
    return [(walking + _moving(len(walking), rise), "climb")]


def jump(cast: Cast) -> Script:
    """Somebody jumps, perhaps ahead, perhaps more than once."""
    body = cast.take(*UPRIGHT)[0]
    low = lowered(body, cast.rng.uniform(0.1, 0.35), 0, 0.2, facing(body))
    low = leaning(low, cast.rng.uniform(0, 0.6), facing(body))
    n, n_air = cast.steps(0.2, 0.5), cast.steps(0.35, 0.65)
    height = 9.81 * (n_air / HZ) ** 2 / 8
    x = np.linspace(-1, 1, n_air)[:, None, None]
    rise = height * (1 - x * x) * np.array([0, 1, 0])
    leap = np.concatenate(
        [between(body, low, n), between(low, body, max(3, n // 3)), body + rise, between(body, low, n)]
    )
    leap = np.concatenate([leap, *([between(low, body, n), leap] if cast.chance(0.4) else [])])
    return [(leap + _moving(len(leap), facing(body) * cast.rng.choice([0, cast.rng.uniform(0.5, 3)])), "jump")]


def _place(body: Joints) -> Joints:
    """Return where on the ground somebody, `[18, 3]`, is."""
    there: Joints = body[AT["hips"]] * [1, 0, 1]
    return there


def _moving(n: int, metres_a_second: Joints) -> Joints:
    """Return how far somebody has come at each of some steps, `[n, 1, 3]`."""
    far: Joints = np.arange(n)[:, None, None] / HZ * metres_a_second
    return far


def sit(cast: Cast) -> Script:
    """Somebody sits."""
    body = seated_on_the_ground(cast.take(*UPRIGHT)[0], cast.rng) if cast.chance(0.25) else cast.seated()
    return [(cast.stirring(body, cast.steps(1, 5), 1.0, 0.2), "sit")]


def sit_down(cast: Cast) -> Script:
    """Somebody sits down, on a chair or on the ground, slowly or fast, and perhaps stays."""
    if cast.chance(0.3):
        body = cast.take(*UPRIGHT)[0]
        down = between(body, seated_on_the_ground(body, cast.rng), cast.steps(0.6, 2))
    else:
        down = cast.slower(cast.take("sitDown"), 0.8, 2.2)
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
    """Somebody squats or kneels, perhaps again and again: nothing that has a name here."""
    body = cast.take(*UPRIGHT)[0]
    low = squatting(body, cast.rng)
    if cast.chance(0.7):
        return _there_and_back(cast, body, low, "stand", BACKGROUND)
    n = cast.steps(0.3, 0.8)
    again = np.concatenate([between(body, low, n), between(low, body, n)])
    return [(np.concatenate([again] * cast.rng.integers(2, 5)), BACKGROUND)]


def exercise(cast: Cast) -> Script:
    """Somebody moves all limbs, and the trunk, in ways that have no name here."""
    body = cast.seated() if cast.chance(0.2) else cast.take(*UPRIGHT)[0]
    low = leaning(squatting(body, cast.rng), cast.rng.uniform(-0.4, 0.8), facing(body))
    way = np.concatenate([between(*ends, cast.steps(0.3, 1.5)) for ends in ((body, low), (low, body))])
    moving = limbs_moving(way, 1.6, 0.9, cast.rng, HZ)
    return [(moving, BACKGROUND)]


def hang(cast: Cast) -> Script:
    """Somebody hangs from a bar, and perhaps pulls up again and again: nothing that has a name here."""
    n = cast.steps(1, 4)
    legs = limbs_moving(cast.held(cast.take(*UPRIGHT)[0], n), 0, 0.4, cast.rng, HZ)
    turns = cast.rng.uniform(0.3, 0.8) * np.arange(n) / HZ + cast.rng.uniform(0, 1)
    pulled = cast.rng.uniform(0, 0.5) * (0.5 - 0.5 * np.cos(2 * np.pi * turns))
    above_ground = cast.rng.uniform(0, 0.8)
    return [(hanging(legs + (above_ground + pulled)[:, None, None] * [0, 1, 0]), BACKGROUND)]


def stumble(cast: Cast) -> Script:
    """Somebody stumbles, and does not fall."""
    walking = cast.walking(cast.steps(0.6, 1.5))
    body, n = walking[-1], cast.steps(0.3, 0.6)
    tilted = brought_down(cast.rng, body, n, False)[: max(2, int(n * cast.rng.uniform(0.4, 0.6)))]
    standing = cast.standing(n) + _place(body)
    back = between(tilted[-1], standing[0], cast.steps(0.3, 0.8))
    return [(walking, "walk"), (np.concatenate([tilted, back]), BACKGROUND), (standing, "stand")]


def thing(cast: Cast) -> Script:
    """A thing or an animal, taken for somebody: joints anywhere, quite still or on the move."""
    size = cast.rng.uniform(0.2, 1, 3)
    body = cast.rng.uniform(-1, 1, (len(JOINTS), 3)) * size
    body[:, 1] -= body[:, 1].min()
    n = cast.steps(0.5, 4)
    if cast.chance(0.5):
        return [(np.tile(body, (n, 1, 1)), BACKGROUND)]
    moving = limbs_moving(cast.held(body, n), *cast.rng.uniform(0, 0.6, 2), cast.rng, HZ)
    speed = cast.rng.normal(0, 0.7, 3) * [1, 0, 1] * cast.chance(0.5)
    return [(moving + _moving(n, speed), BACKGROUND)]


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
    fall: 0.16, collapse: 0.05, roll_out_of_bed: 0.03, turn_over: 0.02, lie: 0.07, stand: 0.09, walk: 0.09, run: 0.06,
    climb: 0.04, jump: 0.05, sit: 0.07, sit_down: 0.06, get_up: 0.05, bend: 0.07, squat: 0.05, kick: 0.02,
    wave: 0.03, exercise: 0.06, hang: 0.02, stumble: 0.02, thing: 0.04,
}  # fmt: skip
"""How often each is played."""
