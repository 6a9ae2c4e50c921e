"""Two hundred broken videos in one job: it ends, and every file has a row. `tests/bench/fuzz.py` breaks thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Config, analyze, open_lake
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from tests.fuzzing import write_broken

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]


def test_every_broken_file_has_a_row(numbered: Path, data_dir: Path, local_ray: None, tmp_path: Path) -> None:
    """Without replacing what is no text in a file's metadata, for one, the job ends at the first such file."""
    clips = sorted((data_dir / "jhmdb" / "clips").glob("*/*.mp4"))[::50]
    write_broken([*clips, *sorted(numbered.iterdir())], tmp_path / "broken", 200)
    config = Config(scope="frame", sample_fps=1.0, deadline_base_s=30.0)
    state = analyze(str(tmp_path / "broken"), str(tmp_path / "lake"), config=config)
    assert state.n_videos_done == 200
    lake = open_lake(str(tmp_path / "lake"))
    videos = lake.table("videos", ["uri", "status"]).to_pylist()
    assert {row["uri"] for row in videos} == {str(path) for path in (tmp_path / "broken").iterdir()}
    assert {row["status"] for row in videos} == {"ok", "partial", "failed"}
    assert verify(Lake(str(tmp_path / "lake"))) == []
