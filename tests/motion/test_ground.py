"""The plane that people walk on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.motion.ground import Ground, read_ground

# Four places of a street in pixels, and in metres.
PIXELS = np.array([[100, 400], [500, 420], [420, 200], [180, 190]], np.float64)
METRES = np.array([[0, 0], [6, 0], [6, 12], [0, 12]], np.float64)


@pytest.fixture
def ground() -> Ground:
    return Ground(cv2.findHomography(PIXELS, METRES)[0])


def test_what_opencv_fits_is_what_is_mapped(ground: Ground) -> None:
    np.testing.assert_allclose(ground.to_metres(PIXELS), METRES, atol=1e-6)
    np.testing.assert_allclose(ground.to_pixels(METRES), PIXELS, atol=1e-6)


def test_spread_in_pixels_is_that_of_many_drawn_places(ground: Ground) -> None:
    rng = np.random.default_rng(0)
    place, spread = np.array([3.0, 5.0]), np.array([[0.01, 0.004], [0.004, 0.02]])
    drawn = ground.to_pixels(rng.multivariate_normal(place, spread, 200_000))
    np.testing.assert_allclose(ground.spread_in_pixels(place, spread), np.cov(drawn.T), rtol=0.03, atol=0.05)


def test_a_file_may_have_commas_or_blanks(tmp_path: Path, ground: Ground) -> None:
    for separator in (",", " ", ", "):
        (tmp_path / "H.csv").write_text("\n".join(separator.join(map(repr, row)) for row in ground.matrix.tolist()))
        np.testing.assert_array_equal(read_ground(tmp_path / "H.csv").matrix, ground.matrix)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n2,4,6\n0,0,1", "singular: it maps the picture onto a line"),
        ("1,2\n3,4", "3 rows of 3 numbers"),
        ("1,2,3\n4,5,6\n7,8,nan", "3 rows of 3 numbers"),
        ("a,b,c", "could not convert string to float: 'a'"),
        ("1,2,3\n4,5\n", "inhomogeneous"),
    ],
)
def test_what_is_no_homography_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "H.csv").write_text(text)
    with pytest.raises(UsageError, match=rf"--ground .*H.csv: .*{message}.*cv2.findHomography"):
        read_ground(tmp_path / "H.csv")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone.csv: can't be read \(No such file"):
        read_ground(tmp_path / "gone.csv")
