"""Letterbox: fit an image into a network's input, and map points back to the image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

GREY = 114
"""The grey level around an image, as in Ultralytics."""
_STRIDE = 32
_Image = NDArray[np.uint8]


class Letterbox:
    """Places images of one size in a network's input: the whole image in the middle, grey around it."""

    def __init__(self, height: int, width: int, longest_px: int) -> None:
        """Fit images into an input.

        Args:
            height: Height of the images, in pixels.
            width: Width of the images, in pixels.
            longest_px: Length of an image's longest side in the input. Small images are enlarged, too, as Ultralytics
                does, because the network finds people of the sizes that it was trained on.
        """
        self._image_size = np.array([width, height], np.float32)
        self._scale = longest_px / max(height, width)
        self._inner_h, self._inner_w = round(height * self._scale), round(width * self._scale)
        outer_h, outer_w = (-(-side // _STRIDE) * _STRIDE for side in (self._inner_h, self._inner_w))
        self.size = (outer_h, outer_w)
        """Height and width of the input."""
        self._top, self._left = (outer_h - self._inner_h) // 2, (outer_w - self._inner_w) // 2

    @property
    def whole(self) -> NDArray[np.float32]:
        """The box of the whole image in the input, `float32 [1, 4]`."""
        right, bottom = self._left + self._inner_w, self._top + self._inner_h
        return np.array([[self._left, self._top, right, bottom]], np.float32)

    def place(self, image: _Image, target: _Image) -> None:
        """Write an image into an input, `uint8 [*size, 3]`."""
        target[:] = GREY
        inside = target[self._top : self._top + self._inner_h, self._left : self._left + self._inner_w]
        if self._scale == 1.0:
            inside[:] = image
            return
        interpolation = cv2.INTER_AREA if self._scale < 1.0 else cv2.INTER_LINEAR
        inside[:] = cv2.resize(image, (self._inner_w, self._inner_h), interpolation=interpolation)

    def to_image(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map points of the input, `float32 [..., 2]`, to the image, clipped to its borders."""
        moved = (points - np.array([self._left, self._top], np.float32)) / np.float32(self._scale)
        return moved.clip(0, self._image_size)

    def is_solid(self, found: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which boxes, `float32 [N, 4 + ...]`, cover at least a pixel of the image in width and in height."""
        corners = self.to_image(found[:, :4].reshape(-1, 2, 2))
        return np.asarray((corners[:, 1] - corners[:, 0] >= 1).all(axis=1))
