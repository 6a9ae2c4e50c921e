"""Segments that meet a condition: what is found, in which order, and which conditions are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader, open_lake
from tests.lakes import lake_of_segments

VIDEOS = {"/v/a.mp4": 10.0, "/v/b.mp4": 20.0}
SEGMENTS = [
    {"uri": "/v/b.mp4", "label": "fall", "start_s": 1.0, "end_s": 2.0, "score": 0.75, "track_id": 1},
    {"uri": "/v/a.mp4", "label": "walk", "start_s": 5.0, "end_s": 6.0, "score": 0.5, "track_id": 2},
    {"uri": "/v/a.mp4", "label": "fall", "start_s": 5.0, "end_s": 9.0, "score": 0.25, "track_id": 1},
    {"uri": "/v/a.mp4", "label": "it's", "start_s": 5.0, "end_s": 7.0, "score": 0.5},
    {"uri": "/v/a.mp4", "label": "walk", "start_s": 0.0, "end_s": 5.0, "score": 1.0, "track_id": 9},
]
OTHERS = [{"uri": "/v/a.mp4", "label": "fall", "start_s": 3.0, "end_s": 4.0, "score": 1.0, "model": "it's 2"}]


@pytest.fixture
def lake(tmp_path: Path) -> LakeReader:
    return open_lake(str(lake_of_segments(tmp_path / "one", VIDEOS, SEGMENTS)))


@pytest.fixture
def two_models(tmp_path: Path) -> LakeReader:
    return open_lake(str(lake_of_segments(tmp_path / "two", VIDEOS, [*SEGMENTS, *OTHERS], ["007", "it's 2"])))


def found(lake: LakeReader, where: str | None, model: str | None = None) -> list[tuple[str, float, int | None]]:
    rows = lake.segments(where, model).to_pylist()
    return [(row["uri"][3], row["start_s"], row["track_id"]) for row in rows]


@pytest.mark.parametrize("where", [None, "true", "label <> '' -- all of them"])
def test_all_segments_are_sorted(lake: LakeReader, where: str | None) -> None:
    assert found(lake, where) == [("a", 0.0, 9), ("a", 5.0, None), ("a", 5.0, 1), ("a", 5.0, 2), ("b", 1.0, 1)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("label = 'fall' AND score > 0.5", [("b", 1.0, 1)]),
        ("label = 'it''s' OR start_s = 0", [("a", 0.0, 9), ("a", 5.0, None)]),
        ("label IN ('(', ')')", []),
        ("uri IN (SELECT uri FROM videos WHERE duration_s > 15)", [("b", 1.0, 1)]),
        ("score > (SELECT avg(score) FROM segments)", [("a", 0.0, 9), ("b", 1.0, 1)]),
    ],
)
def test_a_condition(lake: LakeReader, where: str, expected: list[tuple[str, float, int | None]]) -> None:
    assert found(lake, where) == expected


def test_columns_are_the_same_with_and_without_a_condition(lake: LakeReader) -> None:
    assert lake.segments("true").equals(lake.segments())
    assert lake.segments("false").schema == lake.segments().schema == lake.dataset("segments").schema


def test_each_model_has_its_own(two_models: LakeReader) -> None:
    assert found(two_models, "label = 'fall' OR true", "it's 2") == [("a", 3.0, None)]
    # DuckDB would read the number 7 from this name.
    assert set(two_models.segments("true", "007")["model"].to_pylist()) == {"007"}
    assert two_models.segments("true", "007").num_rows == len(SEGMENTS)
    with pytest.raises(UsageError, match="name one with --model"):
        two_models.segments("true")
    with pytest.raises(UsageError, match="not labelled by 'n'"):
        two_models.segments(None, "n")


@pytest.mark.parametrize(
    "where",
    [
        "",
        "label =",
        "colour = 'red'",
        "true) OR (true",
        "false) UNION ALL SELECT * FROM segments WHERE (true",
        "true; SELECT 1",
        "true) -- ",
        "/* never closed",
        "true ORDER BY score",
        "true FROM videos",
        "count(*) > 1",
        "label IN (SELECT content FROM read_text('/etc/hostname'))",
        "?",
    ],
)
def test_what_is_no_condition_is_refused(lake: LakeReader, where: str) -> None:
    with pytest.raises(UsageError, match=r"^--where .*give a condition on the columns of segments") as caught:
        lake.segments(where)
    assert "LINE" not in str(caught.value)


def test_a_condition_can_not_close_the_parentheses(two_models: LakeReader) -> None:
    with pytest.raises(UsageError, match="--where"):
        two_models.segments("false) UNION SELECT * FROM segments WHERE (true", "it's 2")
