"""The 17 COCO keypoints of one person in a box, by BlazePose's landmark network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.vision.runtime import Runtime

# Indices of COCO's keypoints among BlazePose's 33 landmarks.
_OF_LANDMARKS = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
# Two more points: the middle of the hips, and one on the circle around the whole body, above the head.
_HIPS, _ABOVE = 33, 34
_N_POINTS = 39
_PX = 256
# Factor by which the region is larger than the box, or than the circle around the body.
_REGION_SCALE = 1.25
# Above this trust, no other orientation is tried.
_GOOD_TRUST = 0.6
_VISIBLE = 0.5
# Landmarks lie inside the body, and the box lies around it. Their hull is extended by this share on each side.
_HULL_MARGIN = 0.1


class LandmarkNetwork:
    """Boxes of people in, keypoints out.

    The network is that of Bazarevsky and others, "BlazePose: On-device Real-time Body Pose tracking", 2020. It wants a
    person who stands upright in a square. The first look takes the square around the box. The second look takes the
    square that the landmarks of the first one define, turned so that the body is upright.
    """

    def __init__(self, path: str | Path, runtime: Runtime) -> None:
        """Compile the network, a `.tflite` file that OpenVINO reads.

        Raises:
            UsageError: The file can't be read, or holds another network.
        """
        import openvino as ov

        try:
            model = ov.Core().read_model(str(path))
        except RuntimeError as error:
            raise UsageError(
                f"{path}: not readable as a network of landmarks; use pose_landmark_full.tflite"
            ) from error
        if list(model.input(0).shape) != [1, _PX, _PX, 3] or list(model.output(0).shape) != [1, _N_POINTS * 5]:
            raise UsageError(f"{path}: not BlazePose's network of landmarks; use pose_landmark_full.tflite")
        options = replace(runtime, precision="f32").openvino_options()
        self._network = ov.Core().compile_model(model, "CPU", options)

    def keypoints(
        self, image: NDArray[np.uint8], box: NDArray[np.float32], quarters: int = 0
    ) -> tuple[NDArray[np.float32], float]:
        """Return the keypoints of the person in a box, and how far they can be trusted.

        Args:
            image: `uint8 [H, W, 3]`, RGB.
            box: `float32 [4]`, xyxy in pixels.
            quarters: Quarter turns counterclockwise after which the person is assumed to stand upright. The other
                orientations are tried if the keypoints of this one can't be trusted enough.

        Returns:
            `float32 [17, 3]`: x and y in pixels of the image, score from 0 to 1 (visible and within the region); and
            the trust, from 0 to 1: the network's score of the person times the overlap of the keypoints and the box.
        """
        best, trust = np.zeros((_N_POINTS, 3), np.float32), 0.0
        for turn in range(4):
            for points, sure in self._looks(image, box, quarters + turn):
                fit = sure * _fit(points[:_HIPS], box)
                if fit > trust:
                    best, trust = points, fit
            if trust > _GOOD_TRUST:
                break
        return best[_OF_LANDMARKS], trust

    def _looks(
        self, image: NDArray[np.uint8], box: NDArray[np.float32], quarters: int
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yield the results of two looks: the first at the box, the second where the first saw the body."""
        # The direction from the hips to the head. An image turned counterclockwise has its right side up.
        up = np.array([(0, -1), (1, 0), (0, 1), (-1, 0)][quarters % 4], np.float32)
        side = float((box[2:] - box[:2]).max())
        points, sure = self._look(image, (box[:2] + box[2:]) / np.float32(2), up, side)
        yield points, sure
        spine = points[_ABOVE, :2] - points[_HIPS, :2]
        radius = max(float(np.linalg.norm(spine)), 1.0)
        yield self._look(image, points[_HIPS, :2], (spine / radius).astype(np.float32), 2 * radius)

    def _look(
        self, image: NDArray[np.uint8], centre: NDArray[np.float32], up: NDArray[np.float32], side: float
    ) -> tuple[NDArray[np.float32], float]:
        """Return the points of the person in a turned square, `float32 [39, 3]` in the image's pixels; and a score."""
        right = np.array([-up[1], up[0]], np.float32)
        # The affine map from the network's pixels to the image's: a step to the right, a step down, and an offset.
        step = max(side, 1.0) * _REGION_SCALE / _PX
        to_image = np.stack([right * step, -up * step, centre + (up - right) * step * _PX / 2], axis=1)
        region = cv2.warpAffine(image, to_image, (_PX, _PX), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        outputs = self._network(region[None].astype(np.float32) / 255.0)
        points = outputs[0].reshape(_N_POINTS, 5)
        xy = points[:, :2] @ to_image[:, :2].T + to_image[:, 2]
        score = 1.0 / (1.0 + np.exp(-points[:, 3:].clip(-30, 30)))
        return np.hstack([xy, score.min(axis=1, keepdims=True)]).astype(np.float32), float(outputs[1][0, 0])


def _fit(points: NDArray[np.float32], box: NDArray[np.float32]) -> float:
    """Return the intersection over union of a box and the hull of the visible points `float32 [K, 3]`."""
    xy = points[points[:, 2] > _VISIBLE, :2]
    if len(xy) < 2:
        return 0.0
    margin = (xy.max(axis=0) - xy.min(axis=0)) * _HULL_MARGIN
    top_left, bottom_right = xy.min(axis=0) - margin, xy.max(axis=0) + margin
    sides = np.minimum(bottom_right, box[2:]) - np.maximum(top_left, box[:2])
    shared = float(sides.clip(0).prod())
    return shared / float((bottom_right - top_left).prod() + (box[2:] - box[:2]).prod() - shared)
