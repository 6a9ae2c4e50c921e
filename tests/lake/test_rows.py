"""What receipts tell about a video."""

from __future__ import annotations

import math

import pytest

from pipeline.lake.rows import seen_to_end_s
from pipeline.lake.work import Receipt


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(30.0, False), (41.5, True)], 41.5),
        ([(30.0, False), (30.0, True)], 30.0),
        ([(30.0, False), (35.0, False)], math.inf),
        # The first chunk's reading ended at a damaged place; the second starts behind it.
        ([(12.0, True), (41.5, False)], math.inf),
        ([(12.0, True), (41.5, True)], 41.5),
        ([], math.inf),
    ],
)
def test_a_video_ends_where_the_furthest_chunk_found_its_end(ends: list[tuple[float, bool]], expected: float) -> None:
    """If any chunk's word were taken, segments behind a damaged place would end before they start."""
    receipts = [
        Receipt(0, "v", number, 0, True, end_s=end_s, reached_eof=reached_eof)
        for number, (end_s, reached_eof) in enumerate(ends)
    ]
    assert seen_to_end_s(receipts) == expected
