"""Draw people into pictures: bounding boxes, skeletons and captions, in one colour per person."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.report.scene import Path, Person
from pipeline.vision.keypoints import BONES, KEYPOINTS

SEEN_SCORE = 0.3
"""A keypoint below this score is a guess, and is not drawn."""
# Line widths are given for a picture with this longest side, and scale with the picture.
_LONGEST_PX = 1280
# Neighbouring ids get colours far apart: each hue is the golden ratio further on.
_GOLDEN = 0.618034


def draw_person(image: NDArray[np.uint8], person: Person, scale: float = 1.0) -> None:
    """Draw the box, skeleton and caption of one person. The caption is above the box, or inside if there is no room.

    Args:
        image: `uint8 [H, W, 3]`, RGB. It is changed in place.
        person: The person, in pixels of the source video.
        scale: Pixels of the picture per pixel of the source.
    """
    unit = max(image.shape[:2]) / _LONGEST_PX
    font, thickness = max(0.4, 0.7 * unit), max(1, round(2 * unit))
    colour = colour_of(person.track_id)
    if person.path is not None:
        draw_path(image, person.path, colour, scale)
    left, top, right, bottom = (round(float(side) * scale) for side in person.xyxy)
    cv2.rectangle(image, (left, top), (right, bottom), colour, thickness)
    _draw_skeleton(image, person.keypoints, scale, colour, thickness)
    (width, height), below = cv2.getTextSize(person.caption, cv2.FONT_HERSHEY_SIMPLEX, font, thickness)
    x = min(max(0, left), max(0, image.shape[1] - width))
    y = top - below if top >= height + 2 * below else top + height + below
    cv2.rectangle(image, (x, y - height - below), (x + width, y + below), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.3, 0.59, 0.11)) > 110 else (255, 255, 255)
    cv2.putText(image, person.caption, (x, y), cv2.FONT_HERSHEY_SIMPLEX, font, ink, thickness, cv2.LINE_AA)


def draw_path(image: NDArray[np.uint8], path: Path, colour: tuple[int, ...], scale: float) -> None:
    """Draw a person's past path, forecast path with ellipses of one standard deviation, and true path in white."""
    unit = max(image.shape[:2]) / _LONGEST_PX
    thin, thick = max(1, round(1.5 * unit)), max(2, round(3 * unit))
    shaded = image.copy()
    for (x, y), (sx, sy, rho) in zip(path.foretold * scale, path.spread * [scale, scale, 1], strict=True):
        variances, axes = np.linalg.eigh([[sx * sx, rho * sx * sy], [rho * sx * sy, sy * sy]])
        # The ellipse of a very uncertain forecast would be larger than the picture.
        sides = np.sqrt(variances[::-1].clip(0)).clip(1, 2 * max(image.shape[:2]))
        turn = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
        cv2.ellipse(shaded, _pixel((x, y)), _pixel(sides), turn, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)
    cv2.addWeighted(shaded, 0.2, image, 0.8, 0, dst=image)
    for places, ink, width in ((path.past, colour, thin), (path.came_true, (255, 255, 255), thin)):
        corners = np.round(places * scale).astype(np.int32)[:, None]
        cv2.polylines(image, [corners], False, ink, width, cv2.LINE_AA)
    now = path.past[-1:] if len(path.past) else path.foretold[:1]
    for before, after in itertools.pairwise(np.concatenate([now, path.foretold]) * scale):
        cv2.line(image, _pixel(before), _pixel(after), colour, thin, cv2.LINE_AA)
        cv2.circle(image, _pixel(after), thick, colour, cv2.FILLED, cv2.LINE_AA)


def _pixel(place: Sequence[float] | NDArray[np.float64]) -> tuple[int, int]:
    """Return a place, or a size, in whole pixels, clipped to the range that OpenCV can draw."""
    x, y = (round(max(-30_000.0, min(30_000.0, float(value)))) for value in place)
    return x, y


def colour_of(track_id: int) -> tuple[int, int, int]:
    """Return the colour of a track, RGB."""
    red, green, blue = colorsys.hsv_to_rgb((track_id * _GOLDEN) % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_skeleton(
    image: NDArray[np.uint8], keypoints: NDArray[np.float32], scale: float, colour: tuple[int, ...], thickness: int
) -> None:
    """Draw the visible keypoints. Draw bones between them, too, if they are COCO keypoints."""
    places = [
        (round(float(x) * scale), round(float(y) * scale)) if score >= SEEN_SCORE else None for x, y, score in keypoints
    ]
    bones = BONES if len(places) == len(KEYPOINTS) else []
    for one, other in bones:
        start, end = places[one], places[other]
        if start and end:
            cv2.line(image, start, end, colour, thickness, cv2.LINE_AA)
    for place in places:
        if place:
            cv2.circle(image, place, 2 * thickness, colour, cv2.FILLED, cv2.LINE_AA)
