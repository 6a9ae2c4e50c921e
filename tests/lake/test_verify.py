"""Every way in which a lake can be wrong is found, told by part, and mended so that the same command makes it whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.engine.models import choose_models
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from pipeline.steps.extract import Extractor
from tests.lakes import analyze_here, assert_same
from tests.synthetic import RECIPES, make_video

CONFIG = Config(scope="both", sample_fps=5.0, min_track_s=0.2)
SEGMENTS = "segments/model=daily22-person"


@pytest.fixture(scope="module")
def whole(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with people, boxes, features, and a file that failed."""
    folder = tmp_path_factory.mktemp("verify")
    videos = folder / "videos"
    videos.mkdir()
    shutil.copy(street, videos)
    make_video(videos / "numbers.mp4", RECIPES[0])
    (videos / "text.mp4").write_text("no video")
    analyze_here([str(videos)], folder / "lake", CONFIG, choose_models("default", "both"), Extractor(CONFIG))
    return folder / "lake"


@pytest.fixture
def lake(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "lake")


def rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Return what reads a part, changes its rows and writes it again, with its footer and checksums."""

    def damage(path: Path) -> None:
        table = pq.ParquetFile(path).read()
        changed = change(table).cast(table.schema)
        pq.write_table(changed, path, write_page_checksum=True)

    return damage


def with_column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    def put(table: pa.Table) -> pa.Table:
        column = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), table.schema.field(name), column)

    return rewrite(put)


def flip_a_bit(path: Path) -> None:
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)


def double(values: list[Any]) -> list[Any]:
    return [values[0], values[0], *values[2:]]


def test_a_whole_lake_has_no_problem(whole: Path, tmp_path: Path) -> None:
    assert verify(Lake(str(whole))) == []
    frames = Config(scope="frame", sample_fps=5.0)
    make_video(tmp_path / "video.mp4", RECIPES[0], n_frames=10)
    analyze_here([str(tmp_path / "video.mp4")], tmp_path / "lake", frames, [], Extractor(frames))
    assert verify(Lake(str(tmp_path / "lake"))) == [], "nor has one without boxes and segments"


@pytest.mark.parametrize(
    ("folder", "damage", "message"),
    [
        ("videos", flip_a_bit, "CRC"),
        ("videos", rewrite(lambda table: table.slice(1)), "does not hold the videos of its plan"),
        ("videos", rewrite(lambda table: pa.concat_tables([table, table])), "does not hold the videos of its plan"),
        ("videos", with_column("shard", lambda values: [7] * len(values)), "is of shard 7"),
        ("videos", with_column("n_chunks", lambda values: [9] * len(values)), "counts other chunks"),
        ("videos", with_column("n_frames_sampled", lambda values: [9] * len(values)), "has not the 9 frames"),
        ("videos", with_column("status", lambda values: ["ok"] * len(values)), "tells of 1 videos, but 0 are not ok"),
        ("failures", Path.unlink, "is missing"),
        ("failures", rewrite(lambda table: table.slice(0, 0)), "tells of 0 videos, but 1 are not ok"),
        ("detections", flip_a_bit, "CRC"),
        ("detections", with_column("frame_index", lambda values: values[::-1]), "out of order"),
        ("detections", with_column("score", lambda values: [2.0] * len(values)), "scores"),
        ("detections", with_column("video_id", lambda values: ["x"] * len(values)), "which the shard does not hold"),
        ("features", flip_a_bit, "CRC"),
        ("features", rewrite(lambda table: table.slice(0, len(table) - 1)), "has not the"),
        ("features", with_column("step", lambda values: [0] * len(values)), "twice, or out of order"),
        (SEGMENTS, flip_a_bit, "CRC"),
        (SEGMENTS, with_column("segment_id", double), "a segment twice"),
        (SEGMENTS, with_column("end_s", lambda values: [0.0] * len(values)), "end before they start"),
        (SEGMENTS, with_column("novelty", lambda values: [2.0] * len(values)), "novelties"),
        (SEGMENTS, with_column("track_id", lambda values: [1] * len(values)), "overlap"),
        ("_plan", flip_a_bit, "CRC"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_taken_out(
    lake: Path, folder: str, damage: Callable[[Path], None], message: str
) -> None:
    """Each check of `verify` is the only one that finds its damage."""
    damage(lake / folder / "part-00000.parquet")
    problems = verify(Lake(str(lake)))
    assert any(message in problem.message for problem in problems), problems
    assert verify(Lake(str(lake)), repair=True) == problems
    assert verify(Lake(str(lake))) == []
    committed = Lake(str(lake)).committed() == [0]
    assert committed == (folder == SEGMENTS), "a model's segments alone can be made again without the video"


def test_leftovers_are_told_and_deleted(lake: Path) -> None:
    scratch = lake / "videos" / f".part-00001.parquet.{'0' * 32}.tmp"
    scratch.touch()
    (lake / "_work" / "00000").mkdir(parents=True)
    store = Lake(str(lake))
    assert {problem.where for problem in verify(store)} == {f"videos/{scratch.name}", "_work/00000"}
    verify(store, repair=True)
    assert verify(store) == []


def test_a_repaired_lake_is_made_whole_by_the_same_work(lake: Path, whole: Path) -> None:
    flip_a_bit(lake / "detections" / "part-00000.parquet")
    verify(Lake(str(lake)), repair=True)
    assert not Lake(str(lake)).committed()
    videos = whole.parent / "videos"
    analyze_here([str(videos)], lake, CONFIG, choose_models("default", "both"), Extractor(CONFIG))
    assert_same(lake, whole)


def test_a_video_in_two_shards_is_found(lake: Path) -> None:
    """Whoever counts would count it twice; the later shard is taken out."""
    for folder in ("_plan", "videos", "failures", "detections", "features", SEGMENTS):
        shutil.copy(lake / folder / "part-00000.parquet", lake / folder / "part-00001.parquet")
    (problem,) = verify(Lake(str(lake)), repair=True)
    assert (problem.where, problem.message) == (
        "_plan/part-00001.parquet",
        "plans videos that another shard holds, too",
    )
    assert Lake(str(lake)).committed() == [0]
    assert verify(Lake(str(lake))) == []
