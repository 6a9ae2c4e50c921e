"""The order in which a review asks: what teaches most, and a fair share at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.report.ordering import order


def rows_of(n: int, score: Callable[[int], float], **more: Any) -> list[dict[str, Any]]:
    return [
        {"video_id": f"{i % 20:02d}", "label": "walk" if i % 10 else "fall", "score": score(i), "novelty": 0.1, **more}
        for i in range(n)
    ]


def test_what_teaches_most_comes_first_and_a_share_is_random() -> None:
    rows = rows_of(200, lambda i: 0.99 - i % 7 / 100)
    found = list(order(rows))
    one, other = [number for number, drawn in found if drawn == "asked"][60:62]
    rows[one] |= {"score": 0.3}
    rows[other] |= {"novelty": 0.99, "score": 0.5}
    found = list(order(rows))
    assert sorted(number for number, _ in found) == list(range(200))
    assert [drawn for _, drawn in found[:8]] == ["asked", "asked", "asked", "random"] * 2
    assert {number for number, _ in found[:2]} == {one, other}
    assert list(order(rows)) == found
    asked = [rows[number] for number, drawn in found[:40] if drawn == "asked"]
    assert len({row["video_id"] for row in asked[:20]}) >= 15
    assert {row["label"] for row in asked[:6]} == {"walk", "fall"}
    assert list(order([])) == []
    assert len(list(order(rows[:3]))) == 3


def test_the_random_share_is_fair_however_far_the_review_gets() -> None:
    """Of segments of which half are right, and score higher, half of the random ones are right, after any number."""
    rows = rows_of(4000, lambda i: 0.9 if i % 2 else 0.3)
    found = list(order(rows))
    for n in (800, 2000, 3000, 4000):
        drawn = [number % 2 for number, kind in found[:n] if kind == "random"]
        assert abs(sum(drawn) / len(drawn) - 0.5) < 0.08, n


def test_a_day_of_one_camera_can_be_ordered() -> None:
    rows = rows_of(5000, lambda i: i % 100 / 100, video_id="00")
    assert sorted(number for number, _ in order(rows)) == list(range(5000))
