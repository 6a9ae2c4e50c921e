"""Many small shards become few large ones; at no moment is a row lost or there twice, wherever that is cut off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.engine.models import choose_models
from pipeline.lake.compact import compact, tidy
from pipeline.lake.plans import planned_ids, write_plan
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from pipeline.steps.commit import ShardCommitter
from pipeline.steps.decode import decode_pieces, tasks_of
from pipeline.steps.extract import Extractor, NetworkFacts
from tests.lakes import TABLES, rows
from tests.synthetic import RECIPES, make_video

N_VIDEOS = 6
CONFIG = Config(scope="frame", sample_fps=5.0)


@pytest.fixture(scope="module")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake to which a run a night added a video."""
    folder = tmp_path_factory.mktemp("nightly")
    (folder / "videos").mkdir()
    for number in range(N_VIDEOS):
        make_video(folder / "videos" / f"{number}.mp4", RECIPES[0], n_frames=10 + number)
    lake = Lake(str(folder / "lake"))
    lake.claim(CONFIG.feature_options())
    extractor = Extractor(CONFIG)
    for number, ref in enumerate(list_videos([str(folder / "videos")])):
        planned = plan_video(ref, probe_video(ref), CONFIG.grid_rate, CONFIG.chunk_s)
        write_plan(lake, number, [planned])
        for task in tasks_of(number, planned):
            for piece in decode_pieces(task, CONFIG):
                extractor.extract(lake, [piece])
        config = replace(CONFIG, run_id=f"night-{number}")
        ShardCommitter(config, choose_models("default", "frame")).commit(lake, number, NetworkFacts(1280, {}))
    return folder / "lake"


@pytest.fixture
def lake(nightly: Path, tmp_path: Path) -> Lake:
    return Lake(str(shutil.copytree(nightly, tmp_path / "lake")))


def contents(lake: str | Path) -> dict[str, list[str]]:
    """Return the rows of all tables, whatever their order and their shard."""
    return {table: sorted(map(repr, rows(lake, table, {"shard"}).to_pylist())) for table in TABLES}


def test_a_shard_planned_by_an_earlier_release_is_merged_with_later_ones(lake: Lake, nightly: Path) -> None:
    """Without filling in what its plan lacks the merge fails, half done, and so does every command after it."""
    part = Path(lake.root, "_plan", "part-00000.parquet")
    earlier = pq.read_table(part, partitioning=None).drop_columns(
        ["mirrored", "track", "streamed", "created_at", "recorded_at"]
    )
    pq.write_table(earlier, part, write_page_checksum=True)
    assert compact(lake, max_videos=10, max_hours=1.0) == (6, 1)
    assert tidy(lake) == 0
    assert contents(lake.root) == contents(nightly)
    assert verify(lake) == []


def test_shards_are_merged_as_far_as_they_may_grow(lake: Lake, nightly: Path) -> None:
    assert compact(lake, max_videos=4, max_hours=1.0) == (6, 2)
    assert [path.name for path in sorted(Path(lake.root, "videos").iterdir())] == [
        "part-00006.parquet",
        "part-00007.parquet",
    ]
    assert contents(lake.root) == contents(nightly)
    assert verify(lake) == []
    sizes = (
        open_lake(lake.root).sql("SELECT shard, count(*) AS n FROM videos GROUP BY shard ORDER BY shard").to_pylist()
    )
    assert sizes == [{"shard": 6, "n": 4}, {"shard": 7, "n": 2}]
    assert {shard: len(ids) for shard, ids in planned_ids(lake)} == {6: 4, 7: 2}
    assert compact(lake, max_videos=4, max_hours=1.0) == (2, 2), "nothing is left to do"
    assert compact(lake, max_videos=100, max_hours=0.0) == (2, 2), "nor may they hold more hours"
    assert compact(lake, max_videos=100, max_hours=1.0) == (2, 1)
    assert contents(lake.root) == contents(nightly)


def test_what_was_labelled_by_other_models_stays_apart(lake: Lake) -> None:
    shutil.copytree(
        Path(lake.root, "segments", "model=jhmdb21-frame"), Path(lake.root, "segments", "model=other"),
        ignore=shutil.ignore_patterns("part-00000*", "part-00001*", "part-00002*"),
    )  # fmt: skip
    assert compact(lake, max_videos=100, max_hours=1.0) == (6, 2)


class DiedError(Exception):
    pass


class MortalLake(Lake):
    """Dies before the k-th time that it changes anything."""

    def __init__(self, uri: str, dies_at: int) -> None:
        super().__init__(uri)
        self._left = dies_at

    def _live(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise DiedError

    @contextmanager
    def open_new(self, *parts: str) -> Iterator[pa.NativeFile]:
        with super().open_new(*parts) as sink:
            yield sink
            self._live()

    def delete(self, *parts: str) -> None:
        self._live()
        super().delete(*parts)


def test_wherever_it_is_cut_off_every_row_is_there_once(nightly: Path, tmp_path: Path) -> None:
    """Dies at every single change, is looked at, and taken up again, by a merge, a repair or the next job.

    Without the list of what a merged shard stands for, rows are there twice between its commit and the last deletion.
    """
    expected = contents(nightly)
    finishes: list[Any] = [
        lambda lake: compact(lake, 100, 1.0),
        lambda lake: verify(lake, repair=True),
        tidy,
    ]
    died = 0
    while True:
        copy = shutil.copytree(nightly, tmp_path / str(died))
        try:
            compact(MortalLake(str(copy), died), 100, 1.0)
        except DiedError:
            assert contents(copy) == expected, f"cut off before change {died}"
            finishes[died % len(finishes)](Lake(str(copy)))
            assert contents(copy) == expected, f"cut off before change {died}, and taken up again"
            assert verify(Lake(str(copy))) == []
            there = {int(path.stem.removeprefix("part-")) for path in copy.rglob("part-*.parquet")}
            assert there == set(Lake(str(copy)).committed()), "other tools read whatever lies there"
            assert sum(len(ids) for _, ids in planned_ids(Lake(str(copy)))) == N_VIDEOS
            died += 1
            continue
        break
    assert contents(copy) == expected
    assert died > 6 + N_VIDEOS * 5
