"""How far a lake is, looked at while it is made, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.cli.terminal import progress_line
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.lake.compact import compact
from pipeline.lake.lease import leased
from pipeline.lake.plans import write_plan
from pipeline.lake.progress import progress_of
from pipeline.lake.store import Lake
from pipeline.steps.commit import ShardCommitter
from pipeline.steps.decode import decode_pieces, tasks_of
from pipeline.steps.extract import Extractor, NetworkFacts
from tests.synthetic import RECIPES, make_video

CONFIG = Config(scope="frame", sample_fps=5.0, chunk_s=0.5)


def test_each_step_is_seen(tmp_path: Path) -> None:
    """Two shards of a video of two seconds, with a keyframe every 0.4 s: three chunks each."""
    (tmp_path / "videos").mkdir()
    for number in range(2):
        make_video(tmp_path / "videos" / f"{number}.mp4", RECIPES[0], n_frames=60)
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(UsageError, match="no lake there"):
        progress_of(lake)
    lake.claim(CONFIG.feature_options())
    assert not progress_of(lake).is_done, "nothing is planned yet"
    tasks = []
    for shard, ref in enumerate(list_videos([str(tmp_path / "videos")])):
        planned = plan_video(ref, probe_video(ref), CONFIG.grid_rate, CONFIG.chunk_s)
        write_plan(lake, shard, [planned])
        tasks += tasks_of(shard, planned)
    n_chunks = len(tasks)
    assert n_chunks == 6
    first = progress_of(lake)
    assert (first.n_videos, first.n_videos_committed, first.n_chunks, first.n_chunks_done) == (2, 0, n_chunks, 0)
    assert first.video_s == pytest.approx(4.0, abs=0.1)
    extractor, committer = Extractor(CONFIG), ShardCommitter(CONFIG, [])
    for task in tasks[:4]:
        for piece in decode_pieces(task, CONFIG):
            extractor.extract(lake, [piece])
    found = progress_of(lake)
    assert (found.n_videos_committed, found.n_chunks_done) == (0, 4)
    assert found.video_done_s == pytest.approx(sum(task.chunk.duration_s for task in tasks[:4]))
    committer.commit(lake, 0, NetworkFacts(1280, {}))
    with leased(lake, "run night"):
        found = progress_of(lake)
        assert (found.n_videos_committed, found.n_chunks_done, found.is_done) == (1, 4, False)
        assert found.at_work.startswith("run night (process ")
        line = progress_line(found, first)
        assert line.startswith("1/2 videos, 4/6 chunks, 0.00 of 0.00 video-hours, ")
        assert "video-hours/h, " in line
    assert "nobody works on it" in progress_line(progress_of(lake))
    for task in tasks[4:]:
        for piece in decode_pieces(task, CONFIG):
            extractor.extract(lake, [piece])
    committer.commit(lake, 1, NetworkFacts(1280, {}))
    done = progress_of(lake)
    assert done.is_done
    assert progress_line(done) == "2/2 videos, 6/6 chunks, 0.00 of 0.00 video-hours; done"
    compact(lake, max_videos=4, max_hours=1.0)
    merged = progress_of(lake)
    assert (merged.n_videos, merged.n_chunks_done, merged.is_done) == (2, 6, True)
