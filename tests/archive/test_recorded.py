"""When and by which camera: what names, containers and manifests tell, down to a question over the lake."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import av
import pyarrow.parquet as pq
import pytest

from pipeline.archive.recorded import camera_of, check_options, manifest_time, recorded
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.engine.models import choose_models
from pipeline.errors import UsageError
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from pipeline.report.exports import export_segments
from pipeline.steps.extract import Extractor
from tests.lakes import analyze_here
from tests.synthetic import RECIPES, make_video

UTC = datetime.UTC
AT = datetime.datetime(2024, 5, 3, 14, 22, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("2024-05-03_14-22-10.mp4", AT),
        ("2024-05-03 14.22.10.mov", AT),
        ("20240503T142210Z.mkv", AT),
        ("NVR_ch2_main_20240503142210_20240503143210.mp4", AT),
        ("VID_20240503_142210123.mp4", AT.replace(microsecond=123_000)),
        ("2024-05-03T16:22:10+02:00.mp4", AT),
        ("cam-1714746130.mp4", AT),
        ("cam-1714746130500.mp4", AT.replace(microsecond=500_000)),
        ("2024-05-03_14-22-10-0001.mp4", AT),
        ("20240503_142210.264", AT),
        ("2024-13-03_14-22-10.mp4", None),
        ("8820240503142210.mp4", None),
        ("99999999_142210.mp4", None),
        ("walk.mp4", None),
        ("1080p_30fps.mp4", None),
    ],
)
def test_the_usual_names(name: str, at: datetime.datetime | None) -> None:
    found = recorded(f"/v/{name}", None, None)
    assert found == (None if at is None else (at, "name"))


def test_what_is_believed_first() -> None:
    name, container = "/v/2024-05-03_14-22-10.mp4", datetime.datetime(2024, 5, 3, 15, 0, tzinfo=UTC)
    manifest = "2024-05-03T16:00:00"
    assert recorded(name, manifest, container, time_zone="Europe/Zurich") == (
        AT.replace(minute=0, second=0),
        "manifest",
    )
    assert recorded(name, None, container) == (container, "container")
    assert recorded(name, None, datetime.datetime(1904, 1, 1, tzinfo=UTC)) == (AT, "name")
    assert recorded(name, None, datetime.datetime(2099, 1, 1, tzinfo=UTC)) == (AT, "name")
    pattern = "%Y-%m-%d_%H-%M-*"
    assert recorded(name, None, container, pattern) == (AT.replace(second=0), "name")
    assert recorded(name, None, None, time_zone="America/New_York") == (AT.replace(hour=18), "name")


def test_the_hour_that_a_clock_shows_twice_is_the_first_of_them() -> None:
    found = recorded("/v/2024-10-27_02-30-00.mp4", None, None, time_zone="Europe/Zurich")
    assert found is not None
    assert found.at == datetime.datetime(2024, 10, 27, 0, 30, tzinfo=UTC)


def test_cameras() -> None:
    assert camera_of("s3://bucket/gate/2024.mp4", None) == "gate"
    assert camera_of("/v/door/2024-05-03/14/22.10.mp4", None) == "door"
    assert camera_of("/v/NVR_ch2_main_2024.mp4", "*/NVR_{camera}_main_*") == "ch2"
    assert camera_of("/v/other.mp4", "*/NVR_{camera}_main_*") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("%Y-%Q-%d", "UTC", None), "%Q is not one of"),
        (("%H-%M", "UTC", None), "tells no date; it needs %Y, %m and %d, or %s"),
        (("%Y%m%d%Y", "UTC", None), "a directive stands there twice"),
        ((None, "Mars/Olympus", None), "is no IANA time zone"),
        ((None, "UTC", "*.mp4"), "{camera} has to stand in it"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str | None, str, str | None], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_options(*options)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of one camera, one after the other; one dated by its container, and one by a manifest."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "gate").mkdir()
    video = make_video(folder / "gate" / "20240503_142210.mp4", RECIPES[0], n_frames=60)
    shutil.copy(video, folder / "gate" / "20240503_142212.mp4")
    with av.open(str(video)) as source, av.open(str(folder / "phone.mp4"), "w") as target:
        target.metadata["creation_time"] = "2023-01-02T03:04:05Z"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    shutil.copy(video, folder / "other.mp4")
    manifest = folder / "list.csv"
    manifest.write_text("uri,recorded_at\nother.mp4,2022-01-01T00:00:00+01:00\n")
    config = Config(scope="frame", sample_fps=5.0)
    sources = [str(folder / "gate"), str(folder / "phone.mp4"), str(manifest)]
    analyze_here(sources, folder / "lake", config, choose_models("default", "frame"), Extractor(config))
    return folder / "lake"


def test_a_lake_tells_when(lake: Path) -> None:
    rows = {row["uri"].rpartition("/")[2]: row for row in open_lake(str(lake)).table("videos").to_pylist()}
    told = {name: (row["recorded_at"], row["recorded_at_source"], row["camera"]) for name, row in rows.items()}
    folder = lake.parent.name
    assert told == {
        "20240503_142210.mp4": (AT, "name", "gate"),
        "20240503_142212.mp4": (AT.replace(second=12), "name", "gate"),
        "phone.mp4": (datetime.datetime(2023, 1, 2, 3, 4, 5, tzinfo=UTC), "container", folder),
        "other.mp4": (datetime.datetime(2021, 12, 31, 23, tzinfo=UTC), "manifest", folder),
    }


def test_the_files_of_a_camera_are_one_timeline(lake: Path, tmp_path: Path) -> None:
    query = "SELECT start_at, end_at, uri FROM timeline WHERE camera = 'gate' ORDER BY start_at"
    rows = open_lake(str(lake)).sql(query).to_pylist()
    naive = AT.replace(tzinfo=None)
    assert rows[0]["start_at"] == naive
    assert rows[-1]["end_at"] == naive + datetime.timedelta(seconds=4)
    assert [row["uri"] for row in rows] == sorted(row["uri"] for row in rows)
    export_segments(open_lake(str(lake)), tmp_path / "out.csv", "csv")
    first = next(line for line in (tmp_path / "out.csv").read_text().splitlines() if "142210" in line)
    assert first.split(",")[-2] == "2024-05-03T14:22:10.000+00:00"


def test_parts_of_earlier_releases_are_read_with_unknown_times(lake: Path, tmp_path: Path) -> None:
    older = tmp_path / "lake"
    shutil.copytree(lake, older)
    (part,) = (older / "videos").glob("*.parquet")
    table = pq.read_table(part, partitioning=None)
    pq.write_table(table.drop_columns(["recorded_at", "recorded_at_source", "camera"]), part, write_page_checksum=True)
    reader = open_lake(str(older))
    assert reader.table("videos")["camera"].to_pylist() == [None] * 4
    assert reader.sql("SELECT count(*) AS n FROM timeline WHERE start_at IS NULL").to_pylist()[0]["n"] > 0
    assert verify(Lake(str(older))) == []


def test_a_time_of_a_manifest_is_in_the_zone_that_is_told_and_survives_other_sources(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", RECIPES[0], n_frames=2)
    (tmp_path / "list.csv").write_text("uri,recorded_at\na.mp4,2024-05-03T14:22:10\n")
    (ref,) = list_videos([str(tmp_path), str(tmp_path / "list.csv")])
    found = recorded(ref.uri, ref.recorded_at, None, time_zone="Europe/Zurich")
    assert found == (AT.replace(hour=12), "manifest")
    assert manifest_time("20240503") == datetime.datetime(2024, 5, 3)
    assert manifest_time("1714746130") == AT


def test_a_manifest_with_a_time_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri,recorded_at\na.mp4,yesterday\n")
    with pytest.raises(UsageError, match=r"row 2 has recorded_at = 'yesterday', which is no time"):
        list_videos([str(tmp_path / "list.csv")])


def test_what_is_hidden_in_folders_is_no_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = make_video(tmp_path / "a.mp4", RECIPES[0], n_frames=2)
    for name in ("._a.mp4", ".trash/b.mp4", "@eaDir/a.mp4", "sub/c.M2V", "sub/.thumbs/d.mp4", "Thumbs.db", "e.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(video, tmp_path / name)
    listed = [ref.uri for ref in list_videos([str(tmp_path)])]
    assert listed == [str(tmp_path / "a.mp4"), str(tmp_path / "sub" / "c.M2V")]
    assert [ref.uri for ref in list_videos([str(tmp_path / "*")])] == [str(tmp_path / "a.mp4"), str(tmp_path / "e.gif")]
    assert len(list_videos([f"file://{tmp_path}/**/*.mp4"])) == len(list_videos([str(tmp_path / "**/*.mp4")])) == 1
    assert f"{tmp_path}: 3 hidden folders passed over; name one itself to have it read" in caplog.text
    caplog.clear()
    (remote,) = {len(list_videos([f"file://{tmp_path}"]))}
    assert remote == 2
    assert len(list_videos([str(tmp_path / ".trash"), str(tmp_path / "e.gif"), str(tmp_path / "._a.mp4")])) == 3
