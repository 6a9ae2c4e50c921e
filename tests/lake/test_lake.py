from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.lake import schemas
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake, open_part
from pipeline.lake.work import finished_chunks

OPTIONS = {"scope": "frame", "sample_fps": 15.0}
COLUMNS = {
    "videos": "video_id uri size_bytes duration_s width height fps codec rotation_deg vfr n_frames_sampled status "
    "covered_s truncated n_chunks attempts shard run_id processed_at "
    "recorded_at recorded_at_source camera camera_moved_s",
    "segments": "video_id uri segment_id scope track_id label label_id score novelty start_s end_s x1 y1 x2 y2 run_id",
    "detections": "video_id frame_index pts_s track_id class_id label score x1 y1 x2 y2 keypoints",
    "failures": "video_id uri start_s end_s stage kind message attempts worker",
    "forecasts": "video_id track_id made_at_s horizon_s x y sx sy rho x1 y1 x2 y2",
    "features": "video_id pts_s step n_steps scope track_id embedding change flow",
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    made.claim(OPTIONS)
    return made


def write_shard(lake: Lake, shard: int, commit: bool = True) -> None:
    segment = {
        "video_id": f"v{shard}",
        "uri": f"/{shard}.mp4",
        "label": "walk",
        "score": 0.5,
        "start_s": 0.0,
        "end_s": 2.0,
    }
    with open_part(lake, "segments/model=m", shard, schemas.SEGMENTS) as part:
        part.write_rows([segment])
    if commit:
        with open_part(lake, "videos", shard, schemas.VIDEOS) as part:
            part.write_rows([{"video_id": f"v{shard}", "uri": f"/{shard}.mp4", "status": "ok"}])


def test_the_tables_are_those_that_users_rely_on() -> None:
    assert {name: " ".join(schema.names) for name, schema in schemas.TABLES.items()} == COLUMNS
    assert schemas.SEGMENTS.field("start_s").type == pa.float64()
    assert schemas.detections_schema(17).field("x1").type == pa.float32()
    assert schemas.features_schema({"embedding": 8, "change": 8}).field("embedding").type == pa.list_(pa.float16(), 8)


def test_only_committed_shards_are_seen(lake: Lake) -> None:
    """Without the check for the part of `videos` the second shard's segment shows."""
    write_shard(lake, 0)
    write_shard(lake, 1, commit=False)
    reader = open_lake(lake.uri)
    assert reader.sql("SELECT video_id, model FROM segments").to_pylist() == [{"video_id": "v0", "model": "m"}]
    assert reader.table("segments", ["video_id"]).to_pylist() == [{"video_id": "v0"}]
    assert reader.pandas("videos")["status"].tolist() == ["ok"]


def test_every_table_can_be_queried_before_anything_is_in_it(lake: Lake) -> None:
    reader = open_lake(lake.uri)
    for table in COLUMNS:
        assert reader.sql(f"SELECT count(*) AS n FROM {table}").to_pylist() == [{"n": 0}]
        assert len(reader.table(table)) == 0
    assert reader.sql("SELECT model, label FROM segments").to_pylist() == []


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW videos", "COPY videos TO '{lake}/videos/out.csv'", "INSERT INTO videos SELECT * FROM videos",
        "SELECT 1; DROP VIEW videos", "SET enable_external_access = true", "INSTALL httpfs", "ATTACH 'x.db'", "",
    ],
)  # fmt: skip
def test_a_query_only_reads(lake: Lake, query: str) -> None:
    write_shard(lake, 0)
    before = sorted(Path(lake.root).rglob("*"))
    with pytest.raises(UsageError, match=r"^query: one SELECT is wanted"):
        open_lake(lake.uri).sql(query.format(lake=lake.root))
    assert sorted(Path(lake.root).rglob("*")) == before


def test_a_query_reaches_no_other_file(lake: Lake, tmp_path: Path) -> None:
    write_shard(lake, 0)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="Permission Error"):
        open_lake(lake.uri).sql(f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")


def test_a_mistaken_query_says_what_is_wrong(lake: Lake) -> None:
    with pytest.raises(UsageError, match="colour"):
        open_lake(lake.uri).sql("SELECT colour FROM videos")
    with pytest.raises(UsageError, match="no table 'movies'; there are videos"):
        open_lake(lake.uri).table("movies")


def test_another_configuration_is_refused_with_the_difference(lake: Lake) -> None:
    lake.check(dict(OPTIONS))
    with pytest.raises(UsageError, match=r"sample_fps = 15\.0 there, 5\.0 now"):
        lake.check(OPTIONS | {"sample_fps": 5.0})


def test_a_folder_that_is_no_lake_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(UsageError, match="not empty, and not a lake"):
        Lake(str(tmp_path)).check(OPTIONS)
    with pytest.raises(UsageError, match="no lake there"):
        open_lake(str(tmp_path / "elsewhere"))


def test_damaged_and_later_lakes_are_refused(lake: Lake) -> None:
    identity = Path(lake.root) / "lake.json"
    identity.write_text("{")
    with pytest.raises(UsageError, match=r"lake\.json: damaged"):
        open_lake(lake.uri)
    identity.write_text(json.dumps({"schema_version": 99, "features": {}}))
    with pytest.raises(UsageError, match="schema version 99"):
        open_lake(lake.uri)


def test_a_part_appears_whole_or_not_at_all(lake: Lake) -> None:
    with pytest.raises(pa.ArrowInvalid), open_part(lake, "videos", 3, schemas.VIDEOS) as part:
        part.write_rows([{"video_id": "v"}] * 9000 + [{"video_id": "v", "fps": "not a number"}])
    assert list(Path(lake.root, "videos").iterdir()) == []
    with open_part(lake, "videos", 3, schemas.with_footer(schemas.VIDEOS, config_hash="abc")) as part:
        part.write_rows([{"video_id": "v"}])
        assert lake.committed() == []
    assert lake.committed() == [3]
    footer = json.loads(pq.read_schema(f"{lake.root}/videos/part-00003.parquet").metadata[b"actionlake"])
    assert footer == {"schema_version": 1, "config_hash": "abc"}


def test_sweeping_takes_what_a_killed_run_left_and_nothing_else(lake: Lake) -> None:
    write_shard(lake, 0)
    lake.write_bytes("_work/00000/old.arrow", b"")
    lake.write_bytes("_work/00001/new.arrow", b"")
    scratch = Path(lake.root, "videos", f".part-00001.parquet.{'0' * 32}.tmp")
    scratch.touch()
    assert lake.sweep() == 2
    left = {str(path.relative_to(lake.root)) for path in Path(lake.root).rglob("*") if path.is_file()}
    assert left == {
        "lake.json",
        "videos/part-00000.parquet",
        "segments/model=m/part-00000.parquet",
        "_work/00001/new.arrow",
    }


def test_row_groups_are_gathered_and_rows_keep_their_order(lake: Lake) -> None:
    with open_part(lake, "failures", 0, schemas.FAILURES) as part:
        for number in range(10_000):
            part.write_rows([{"video_id": f"{number:05d}"}])
    file = pq.ParquetFile(f"{lake.root}/failures/part-00000.parquet")
    assert file.metadata.num_row_groups == 2
    assert file.read(["video_id"])["video_id"].to_pylist() == [f"{number:05d}" for number in range(10_000)]


def test_a_part_appears_whole_or_not_at_all_in_an_object_store() -> None:
    """Closing a stream publishes what was written so far; written directly, the broken part would show."""
    lake = Lake("memory://bucket/lake")
    lake.claim(OPTIONS)
    with pytest.raises(pa.ArrowInvalid), open_part(lake, "videos", 3, schemas.VIDEOS) as part:
        part.write_rows([{"video_id": "v"}] * 9000 + [{"video_id": "v", "fps": "not a number"}])
    assert lake.committed() == []
    with open_part(lake, "videos", 3, schemas.VIDEOS) as part:
        part.write_rows([{"video_id": "v"}])
    assert lake.committed() == [3]


@pytest.mark.parametrize(
    ("names", "finished"),
    [
        (["p00000", "p00001-last"], ["p00000", "p00001-last"]),
        (["p00000", "p00001"], None),
        (["p00001-last"], None),
        (["p00000-last", "p00000"], ["p00000-last"]),
        (["p00000", "p00001", "p00001-last", "p00002"], ["p00000", "p00001-last"]),
    ],
)
def test_a_chunk_is_finished_when_its_last_piece_and_all_before_it_are_there(
    names: list[str], finished: list[str]
) -> None:
    """What a dead worker left beyond the end, or under its number, does not count."""
    key = ("0123456789abcdef", 7)
    full = [f"{key[0]}-c00007-{name}.arrow" for name in names]
    expected = {key: [f"{key[0]}-c00007-{name}.arrow" for name in finished]} if finished else {}
    assert finished_chunks(sorted(full)) == finished_chunks(sorted(full, reverse=True)) == expected
