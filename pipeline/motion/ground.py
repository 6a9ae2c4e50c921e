"""Convert pixels to metres on the ground and back by a homography, for a camera that does not move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.bounded import OPTIONS_BYTES, read_bounded
from pipeline.errors import UsageError

# Largest condition number of the matrix after its rows are scaled. Beyond it, the ground is seen as a line.
_WORST_CONDITION = 1e12


class Ground:
    """The plane that people walk on, as one camera sees it."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        """Take the matrix `float64 [3, 3]` from pixels to metres on the ground, as `cv2.findHomography` gives it.

        Raises:
            ValueError: The matrix has another shape, or no inverse.
        """
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError("3 rows of 3 numbers are expected")
        scaled = matrix / np.maximum(np.abs(matrix).max(axis=1, keepdims=True), 1e-300)
        if np.linalg.cond(scaled) > _WORST_CONDITION:
            raise ValueError("the matrix is singular: it maps the picture onto a line")
        self.matrix = matrix
        self._inverse = np.linalg.inv(matrix)

    def to_metres(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return places on the ground, `float64 [..., 2]`, for places in the picture."""
        return _mapped(self.matrix, pixels)

    def to_pixels(self, metres: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return places in the picture, `float64 [..., 2]`, for places on the ground."""
        return _mapped(np.asarray(self._inverse, np.float64), metres)

    def depth(self, metres: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far in front of the camera places on the ground are, `float64 [...]`, up to a factor.

        Where the sign changes, a path passes the camera: the picture shows nothing behind the camera.
        """
        inverse = np.asarray(self._inverse, np.float64)
        depth: NDArray[np.float64] = metres @ inverse[2, :2] + inverse[2, 2]
        return depth

    def spread_in_pixels(self, metres: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert covariances in metres around places on the ground to pixels, `float64 [..., 2, 2]`.

        The result is of first order: it uses the derivative of the homography at these places.
        """
        inverse = self._inverse
        x, y, w = np.moveaxis(metres @ inverse[:, :2].T + inverse[:, 2], -1, 0)
        derivative = np.stack(
            [
                (inverse[0, :2] - (x / w)[..., None] * inverse[2, :2]) / w[..., None],
                (inverse[1, :2] - (y / w)[..., None] * inverse[2, :2]) / w[..., None],
            ],
            axis=-2,
        )
        spread: NDArray[np.float64] = derivative @ covariance @ np.swapaxes(derivative, -1, -2)
        return spread


def _mapped(matrix: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, w = np.moveaxis(places @ matrix[:, :2].T + matrix[:, 2], -1, 0)
    return np.stack([x / w, y / w], axis=-1)


def read_ground(path: str | Path) -> Ground:
    """Read a homography: a file of three lines, each of three numbers with commas or blanks between them.

    Raises:
        UsageError: The file can't be read, or the matrix has no inverse.
    """
    try:
        lines = read_bounded(path, OPTIONS_BYTES).decode().split("\n")
        rows = [[float(cell) for cell in line.replace(",", " ").split()] for line in lines if line.strip()]
        return Ground(np.array(rows, np.float64))
    except OSError as error:
        raise UsageError(f"--ground {path}: can't be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(
            f"--ground {path}: {error}; the file must hold the matrix from pixels to metres, which cv2.findHomography "
            "computes from four or more places on the ground whose metres are known"
        ) from error
