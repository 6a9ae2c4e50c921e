"""Draw people into pictures: boxes, skeletons, captions; a colour for each."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.report.scene import Person
from pipeline.vision.keypoints import BONES, KEYPOINTS

SEEN_SCORE = 0.3
"""A keypoint below this score is a guess, and is not drawn."""
# Lines are made for a picture of this size, and grow with it.
_LONGEST_PX = 1280
# Neighbouring ids get colours far apart: each hue is the golden ratio further on.
_GOLDEN = 0.618034


def draw_person(image: NDArray[np.uint8], person: Person, scale: float = 1.0) -> None:
    """Draw one box, the skeleton in it, and its caption above it, or inside where there is no room.

    Args:
        image: `uint8 [H, W, 3]`, RGB; it is drawn onto.
        person: In pixels of the source video.
        scale: Pixels of the picture for one of the source.
    """
    unit = max(image.shape[:2]) / _LONGEST_PX
    font, thickness = max(0.4, 0.7 * unit), max(1, round(2 * unit))
    colour = colour_of(person.track_id)
    left, top, right, bottom = (round(float(side) * scale) for side in person.xyxy)
    cv2.rectangle(image, (left, top), (right, bottom), colour, thickness)
    _draw_skeleton(image, person.keypoints, scale, colour, thickness)
    (width, height), below = cv2.getTextSize(person.caption, cv2.FONT_HERSHEY_SIMPLEX, font, thickness)
    x = min(max(0, left), max(0, image.shape[1] - width))
    y = top - below if top >= height + 2 * below else top + height + below
    cv2.rectangle(image, (x, y - height - below), (x + width, y + below), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.3, 0.59, 0.11)) > 110 else (255, 255, 255)
    cv2.putText(image, person.caption, (x, y), cv2.FONT_HERSHEY_SIMPLEX, font, ink, thickness, cv2.LINE_AA)


def colour_of(track_id: int) -> tuple[int, int, int]:
    """Return the colour of a track, RGB."""
    red, green, blue = colorsys.hsv_to_rgb((track_id * _GOLDEN) % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_skeleton(
    image: NDArray[np.uint8], keypoints: NDArray[np.float32], scale: float, colour: tuple[int, ...], thickness: int
) -> None:
    """Draw the keypoints that were seen, and the bones between them, if they are COCO's."""
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
