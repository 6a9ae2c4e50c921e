"""Find in a video's headers how its frames are set upright."""

from __future__ import annotations

import math

import numpy as np

# No camera or disc has pixels that are this much wider than high, or higher than wide: such a header is damaged.
_WIDEST_PIXEL = 10.0


def orientation_of(matrix: bytes | None) -> tuple[int, bool]:
    """Return `(counter-clockwise turn in degrees, whether left and right are flipped after it)` of a display matrix.

    FFmpeg attaches the container's matrix, and the matrix of the codec's own headers, to every frame.
    """
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    mirrored = a * d - b * c < 0
    clockwise = math.degrees(math.atan2(b, -a if mirrored else a))
    return round(-clockwise / 90) * 90 % 360, mirrored


def upright_size(width: int, height: int, pixel_aspect: float, rotation_deg: int) -> tuple[int, int]:
    """Return width and height in square pixels, after rotation; `pixel_aspect` is a pixel's width over its height."""
    if not 1 / _WIDEST_PIXEL <= pixel_aspect <= _WIDEST_PIXEL:
        pixel_aspect = 1.0
    width = max(1, round(width * pixel_aspect))
    return (height, width) if rotation_deg in (90, 270) else (width, height)
