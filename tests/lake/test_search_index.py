"""The index of a search follows its lake, is kept where that can be written to, and is no part of it."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.lake import search_index
from pipeline.lake.compact import compact
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.search import search
from pipeline.lake.search_index import open_index
from pipeline.lake.stretches import FRAME, PERSON
from pipeline.lake.verify import verify
from pipeline.steps.extract import Extractor
from tests.lakes import analyze_here
from tests.made_up import (
    CONFIG,
    N_STEPS,
    SHARDS,
    MadeUpPerson,
    made,
    moment,
    places,
    write_people,
)
from tests.synthetic import RECIPES, make_video


def test_the_index_is_used_again_and_follows_the_lake(
    folder: Path, lake: LakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is described anew only when its part changed; an index that is there, and wrong, is not believed."""
    described = []
    whole = search_index._make

    def make(*arguments: Any) -> Any:
        described.append(arguments[3])
        return whole(*arguments)

    monkeypatch.setattr(search_index, "_make", make)
    query = moment(lake, "v00@4.5")
    first = search(lake, query, 10)
    assert described == [0, 1, 2]
    files = {path: path.read_bytes() for path in sorted((folder / "_search" / "person").iterdir())}
    assert [path.name for path in files] == ["00000.arrow", "00001.arrow", "00002.arrow", "basis.npz"]
    assert search(lake, query, 10) == first
    assert described == [0, 1, 2]
    # The third shard is none of those that the basis is fitted to.
    write_people(lake.store, 2, {"v06": [MadeUpPerson(1, 2, 0, 60)]}, N_STEPS, CONFIG)
    changed = search(lake, query, 100)
    assert described == [0, 1, 2, 2]
    assert {hit.track_id for hit in changed if hit.video_id == "v06"} == {1}
    # The first is: all is made anew.
    write_people(lake.store, 0, SHARDS[0] | {"v02": [MadeUpPerson(4, 3, 0, 60)]}, N_STEPS, CONFIG)
    search(lake, query, 10)
    assert described == [0, 1, 2, 2, 0, 1, 2]
    # What a shorter write left is no index.
    damaged = folder / "_search" / "person" / "00001.arrow"
    again = search(lake, query, 10)
    damaged.write_bytes(damaged.read_bytes()[:500])
    (folder / "_search" / "person" / "basis.npz").write_bytes(b"nonsense")
    assert search(lake, query, 10) == again


def test_the_same_lake_gives_the_same_index(made_once: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        lake = open_lake(str(shutil.copytree(made_once, tmp_path / name)))
        search(lake, moment(lake, "v00@4.5"), 1)
        contents.append({p.name: p.read_bytes() for p in Path(lake.store.root, "_search", "person").glob("*.arrow")})
    assert contents[0] == contents[1]


def test_a_long_recording_is_described_a_part_at_a_time(
    made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which leaves no trace but in the last bits."""
    found = []
    for name, at_once in (("a", 1024), ("b", 2)):
        monkeypatch.setattr(search_index, "_AT_ONCE", at_once)
        lake = open_lake(str(shutil.copytree(made_once, tmp_path / name)))
        opened = open_index(lake.store, lake.feature_options, PERSON)
        assert opened is not None
        found.append(np.concatenate([shard.vectors for shard in opened[1]]).astype(np.float32))
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_a_lake_that_grows_keeps_its_index(tmp_path: Path) -> None:
    """With three shards the basis is that of the first two, as it was before the third."""
    store = made(tmp_path / "lake", SHARDS[:2])
    lake = open_lake(store.uri)
    search(lake, moment(lake, "v00@4.5"), 1)
    before = {p.name: p.read_bytes() for p in Path(store.root, "_search", "person").iterdir()}
    write_people(store, 2, SHARDS[2], N_STEPS, CONFIG)
    search(lake, moment(lake, "v00@4.5"), 1)
    after = {p.name: p.read_bytes() for p in Path(store.root, "_search", "person").iterdir()}
    assert after.keys() - before.keys() == {"00002.arrow"}
    assert {name: after[name] for name in before} == before


def test_a_lake_that_cannot_be_written_to_is_searched(
    folder: Path, lake: LakeReader, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in the way stops even root, whom permissions do not."""
    kept = search(lake, moment(lake, "v00@4.5"), 10)
    shutil.rmtree(folder / "_search")
    (folder / "_search").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert search(lake, moment(lake, "v00@4.5"), 10) == kept
    said = [record.getMessage() for record in caplog.records if "keeps no index" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"{lake.store.uri}: can't be written to (")
    if os.geteuid() != 0:
        (folder / "_search").unlink()
        folder.chmod(0o500)
        assert search(lake, moment(lake, "v00@4.5"), 10) == kept
        folder.chmod(0o700)


def test_an_index_in_an_object_store(folder: Path, lake: LakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are put whole, and read without mapping them."""
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/search-lake", recursive=True)
    remote = open_lake("memory://search-lake")
    expected = search(lake, moment(lake, "v00@4.5"), 10)
    assert search(remote, moment(remote, "v00@4.5"), 10) == expected
    monkeypatch.setattr(search_index, "_make", None)  # It is there: nothing is made again.
    assert search(remote, moment(remote, "v00@4.5"), 10) == expected


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two shards of whole frames, from videos."""
    folder = tmp_path_factory.mktemp("frames")
    config = Config(scope="frame", sample_fps=5.0)
    extractor = Extractor(config)
    for number in range(2):
        video = make_video(folder / f"{number}.mp4", RECIPES[0], n_frames=148 + 30 * number)
        analyze_here([str(video)], folder / "lake", config, [], extractor, shard=number)
    return folder / "lake"


def test_frames_are_searched_and_the_index_is_no_part_of_the_lake(frames: Path) -> None:
    """After a merge the index is made anew, and nothing of the old one stays."""
    lake = open_lake(str(frames))
    before = [problem.where for problem in verify(lake.store)]
    assert before == []
    query = moment(lake, "0.mp4@2.6")
    hits = search(lake, query, 100)
    assert {hit.track_id for hit in hits} == {None}
    assert all(hit.end_s <= 1.6 + 1e-6 or hit.start_s >= 3.6 - 1e-6 for hit in hits if hit.uri.endswith("/0.mp4"))
    assert any(hit.uri.endswith("/1.mp4") for hit in hits)
    assert max(hit.end_s for hit in hits) == pytest.approx(178 / 30), "the last step reaches past the last frame"
    with pytest.raises(UsageError, match=r"no frame was seen there; nobody is followed in this lake"):
        search(lake, moment(lake, "0.mp4@2.6", 3))
    assert verify(lake.store) == []
    assert compact(lake.store, 10, 1.0) == (2, 1)
    assert verify(lake.store) == []
    assert places(search(lake, query, 100)) == places(hits)
    assert sorted(p.name for p in (frames / "_search" / FRAME).iterdir()) == ["00002.arrow", "basis.npz"]


def test_poses_that_are_not_known_count_nothing(tmp_path: Path) -> None:
    """Parts of earlier releases have no keypoints; without leaving them out every vector is NaN."""
    store = made(tmp_path / "lake")
    part = Path(store.root, "detections", "part-00001.parquet")
    pq.write_table(pq.ParquetFile(part).read().drop_columns(["keypoints"]), part, write_page_checksum=True)
    lake = open_lake(store.uri)
    hits = search(lake, moment(lake, "v00@4.5"), 100)
    assert all(np.isfinite(hit.likeness) for hit in hits)
    assert "v04" in {hit.video_id for hit in hits}
