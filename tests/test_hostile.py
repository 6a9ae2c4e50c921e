"""Input that somebody made to do harm, or that nobody thought of: names, sizes, claims, nesting, weights, queries."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import av
import pytest

from pipeline.activity.bundle import Bundle
from pipeline.archive.plan import OPEN_END, Chunk
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.cli.terminal import plain
from pipeline.config import Config, VideoLimits
from pipeline.engine.models import choose_models
from pipeline.errors import UsageError, VideoError
from pipeline.lake.query import open_lake
from pipeline.report.exports import EXPORTS, FOLDERS, export_segments
from pipeline.steps.extract import Extractor
from pipeline.training.formats import read_annotations
from pipeline.video.decode import decode_chunk
from pipeline.video.frames import DecodeReport
from pipeline.vision.weights import check_trust
from tests.lakes import analyze_here
from tests.synthetic import RECIPES, make_video
from tests.test_cli import run

NAMES = [
    'it\'s "quoted".mp4',
    "line\nend.mp4",
    "red \x1b[31m and \x1b]0;title\x07.mp4",
    "turned \u202egpm.mp4",
    "[bold]markup[b].mp4",
    "Gr\u00fc\u00dfe \u4f60\u597d \U0001f3c3\u200d\u2640\ufe0f.mp4",
    "'; DROP TABLE videos; --.mp4",
    "%2e%2e%2fpercent.mp4",
    "n" * 251 + ".mp4",
]
LABEL = "wal'k\n\x1b[2J../../" + "x" * 4000
CONFIG = Config(scope="frame", sample_fps=5.0)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with odd names, one of them not UTF-8, one at the end of 3,900 characters; and a lake of them."""
    folder = tmp_path_factory.mktemp("odd")
    video = make_video(folder / "plain.mp4", RECIPES[0], n_frames=10)
    videos = folder / "videos"
    videos.mkdir()
    for name in NAMES:
        shutil.copy(video, videos / name)
    shutil.copy(video, os.fsencode(videos) + b"/not \xff text.mp4")
    deep = videos
    while len(str(deep)) < 3700:
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    shutil.copy(video, deep / "deep.mp4")
    (videos / "loop").symlink_to(videos)
    model = choose_models("default", "frame")[0]
    named: Bundle = replace(model, labels=(LABEL, *(f"{LABEL}{n}" for n in range(1, len(model.labels)))))
    summary = analyze_here([str(videos)], folder / "lake", CONFIG, [named], Extractor(CONFIG))
    assert (summary.n_videos, summary.n_failed) == (len(NAMES) + 2, 0)
    return folder


def test_a_link_into_itself_lists_every_file_once(odd: Path) -> None:
    """Without the check for folders seen before, every file is listed forty times."""
    uris = [ref.uri for ref in list_videos([str(odd / "videos")])]
    assert len(uris) == len(set(uris)) == len(NAMES) + 2
    assert not any("/loop/" in uri for uri in uris)


def test_odd_names_come_back_from_the_lake_as_they_are(odd: Path) -> None:
    lake = open_lake(str(odd / "lake"))
    uris = set(lake.table("videos")["uri"].to_pylist())
    assert {str(odd / "videos" / name) for name in NAMES} <= uris
    (not_text,) = (uri for uri in uris if uri.startswith("file://"))
    assert not_text.endswith("/not%20%FF%20text.mp4")
    assert max(map(len, uris)) > 3700
    for uri in uris:
        quoted = uri.replace("'", "''")
        found = lake.sql(
            f"SELECT status, label FROM videos JOIN segments USING (uri) WHERE uri = '{quoted}'"
        ).to_pylist()
        assert {row["status"] for row in found} == {"ok"}
        assert all(row["label"].startswith(LABEL) for row in found)


def test_a_terminal_is_told_nothing_but_text(odd: Path) -> None:
    """Escape sequences, line ends and marks that turn a line around are spelt out; without that they reach it."""
    done = run("query", "--lake", odd / "lake", "SELECT uri, label[:20] AS label FROM videos JOIN segments USING (uri)")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode()
    kinds = {unicodedata.category(char) for char in shown if char not in "\n\u200d"}
    assert kinds.isdisjoint({"Cc", "Cf", "Cs"})
    assert plain("a\x1b[31m[b]") == r"a\x1b[31m\[b]"
    assert "\U0001f3c3\u200d\u2640\ufe0f" in plain(NAMES[5])


def test_subtitles_stay_in_their_folder_whatever_the_videos_are_called(odd: Path, tmp_path: Path) -> None:
    n_segments = export_segments(open_lake(str(odd / "lake")), tmp_path / "out", "vtt")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == len(NAMES) + 2
    assert sum(path.read_text().count(" --> ") for path in files) == n_segments
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_hold_whatever_videos_and_labels_are_called(odd: Path, tmp_path: Path, name: str) -> None:
    """Each video has its own file, in the folder, and what is XML or JSON can be read."""
    out = tmp_path / "out" / {"excel": "a.xlsx"}.get(name, "a")
    (tmp_path / "out").mkdir()
    lake = open_lake(str(odd / "lake"))
    # BORIS can't name one of the videos, and says so.
    where = "uri NOT LIKE '%;%'" if name == "boris" else None
    assert export_segments(lake, out, name, where=where) == lake.segments(where).num_rows
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for path in files:
        if path.suffix in (".eaf", ".xml"):
            ElementTree.parse(path)
        elif path.suffix == ".json" or name == "label-studio":
            json.loads(path.read_text())
    n_more = {"cvat": 1, "fiftyone": 2}.get(name, 0)
    assert len(files) == (len(NAMES) + 2 + n_more if name in FOLDERS else 1 + (name == "label-studio"))


def test_what_a_video_may_claim_is_limited_and_the_limit_named(tmp_path: Path) -> None:
    """A small file that claims huge frames, years, or a million frames is refused before anything is decoded."""
    video = make_video(tmp_path / "video.mp4", RECIPES[0], n_frames=10)
    (ref,) = list_videos([str(video)])
    probe_video(ref)
    for limits, message in (
        (VideoLimits(max_megapixels=0.01), "frames of 160 x 96 pixels, more than max_megapixels = 0.01"),
        (VideoLimits(max_video_hours=0.00001), "0 hours, more than max_video_hours = 1e-05"),
        (VideoLimits(min_frame_bytes=1000.0), "10 frames in .* bytes, less than min_frame_bytes = 1000 each"),
    ):
        with pytest.raises(VideoError, match=message) as caught:
            probe_video(ref, limits)
        assert caught.value.kind == "too_large"


def test_a_thousand_bytes_that_claim_a_million_frames(tmp_path: Path) -> None:
    """The tables say: a million frames of a byte each, in one piece. FFmpeg takes the header's word."""
    video = make_video(tmp_path / "still.mp4", RECIPES[0], n_frames=2)
    content = bytearray(video.read_bytes())
    million, one = (1_000_000).to_bytes(4, "big"), (1).to_bytes(4, "big")
    for table, at, value in (("stsz", 8, million), ("stsz", 4, one), ("stts", 8, million), ("stsc", 12, million)):
        start = content.index(table.encode()) + 4 + at
        content[start : start + 4] = value
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(content)
    with pytest.raises(VideoError, match=r"claims 1000000 frames in \d+ bytes, less than min_frame_bytes = 1 each"):
        probe_video(list_videos([str(bomb)])[0])


def test_a_frame_at_an_absurd_time_is_left_out(tmp_path: Path) -> None:
    """Without the limit the frame's step is larger than any number in a table."""
    mjpeg, even = RECIPES[-1], list(range(0, 900, 30))
    sound = make_video(tmp_path / "sound.mkv", mjpeg, n_frames=30, pts=even, time_base=Fraction(1, 1000))
    absurd = make_video(tmp_path / "absurd.mkv", mjpeg, n_frames=31, pts=[*even, 2**40], time_base=Fraction(1, 1000))
    # The header tells of the length that follows from it, which is refused; that of a damaged file would not.
    probe = probe_video(list_videos([str(sound)])[0])
    report = DecodeReport()
    batches = list(decode_chunk(str(absurd), probe, Chunk(0, 0, OPEN_END, 1.0), Fraction(30), 320, 100, report))
    assert report.first_error == "a frame is shown later than any video is long"
    assert [number for batch in batches for number in batch.steps] == list(range(28))


def test_frames_that_grow_in_the_midst_of_a_stream_are_not_decoded(tmp_path: Path) -> None:
    """The decoder itself refuses them: the header told of the small ones alone."""
    recipe = next(recipe for recipe in RECIPES if recipe.name == "h264.ts")
    small = make_video(tmp_path / "small.ts", recipe, n_frames=30)
    large = make_video(tmp_path / "large.ts", recipe, n_frames=30, size=(640, 480))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "grows.ts").write_bytes(small.read_bytes() + large.read_bytes())
    config = replace(CONFIG, max_megapixels=0.1)
    summary = analyze_here([str(tmp_path / "both")], tmp_path / "lake", config, [], Extractor(config))
    assert (summary.n_videos, summary.n_partial) == (1, 1)
    (failure,) = open_lake(str(tmp_path / "lake")).table("failures").to_pylist()
    assert failure["kind"] == "too_large"
    assert "has frames of 640 x 480 pixels, more than max_megapixels = 0.1" in failure["message"]
    (row,) = open_lake(str(tmp_path / "lake")).table("videos").to_pylist()
    assert 0.9 < row["covered_s"] < 1.3


def test_files_of_options_and_labels_are_bounded(tmp_path: Path) -> None:
    """Nested without end, or without end at all: a message, and no more memory than is allowed."""
    nested = tmp_path / "nested.toml"
    nested.write_text("labels = " + "[" * 100_000)
    with pytest.raises(UsageError, match="not valid TOML"):
        Config.load(nested)
    with pytest.raises(UsageError, match="/dev/zero: has more than 1 MiB"):
        Config.load("/dev/zero")
    (tmp_path / "labels.json").write_text('{"database": ' * 100_000)
    with pytest.raises(UsageError, match=r"labels\.json"):
        read_annotations(tmp_path / "labels.json")
    (tmp_path / "list.jsonl").write_text('{"uri": ' + "[" * 100_000 + "\n")
    with pytest.raises(UsageError, match="not a readable JSONL manifest"):
        list_videos([str(tmp_path / "list.jsonl")])
    (tmp_path / "list.csv").write_text("uri\n" + "x" * (2 << 20) + "\n")
    with pytest.raises(UsageError, match="a line of more than 1048576 characters"):
        list_videos([str(tmp_path / "list.csv")])
    (tmp_path / "nul.csv").write_text("uri\na\0b.mp4\n")
    with pytest.raises(UsageError, match="a NUL in it"):
        list_videos([str(tmp_path / "nul.csv")])


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "a" * 101, "x\n"])
def test_a_model_is_not_called_what_no_folder_should_be(name: str, tmp_path: Path) -> None:
    """Its name becomes a folder's in every lake that it labels."""
    bundle = choose_models("default", "frame")[0]
    replace(bundle, name="ok").save(tmp_path / "bundle")
    record = json.loads((tmp_path / "bundle" / "model.json").read_text())
    (tmp_path / "bundle" / "model.json").write_text(json.dumps(record | {"name": name}))
    with pytest.raises(UsageError, match="a model can't be called"):
        choose_models(tmp_path / "bundle", "frame")


def test_pickled_weights_are_warned_of_or_refused(
    person_weights: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    check_trust(str(person_weights), "warn")
    assert "is a pickle, which runs code of whoever made it" in caplog.text
    caplog.clear()
    check_trust("person_nano", "refuse")
    assert not caplog.text
    video = make_video(tmp_path / "video.mp4", RECIPES[0], n_frames=5)
    done = run("analyze", video, "--lake", tmp_path / "lake", "--detector", person_weights, "--refuse-pickle")
    assert done.returncode == 2
    assert "is a pickle" in done.stderr.decode()
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE (a.range * b.range) % 7 = 8", "--timeout"),
        ("SELECT DISTINCT range, random() FROM range(50000000)", "--memory-gb"),
        ("SELECT * FROM range(1000000000)", "the answer is larger than 0.1 GiB"),
    ],
)
def test_a_query_ends(odd: Path, query: str, message: str) -> None:
    """By time, by what it works with, by what it answers; without the limits these run on, or fill the memory."""
    with pytest.raises(UsageError, match=message):
        open_lake(str(odd / "lake")).sql(query, timeout_s=2.0, memory_gb=0.1)


def test_a_playlist_in_the_midst_of_an_archive_is_a_failed_file(tmp_path: Path) -> None:
    """Without the whitelist FFmpeg reads the other file; see also the test with a listener beside the probe's."""
    make_video(tmp_path / "secret.avi", RECIPES[-2], n_frames=5).rename(tmp_path / "secret")
    for name, text in {
        "concat.mp4": "ffconcat version 1.0\nfile secret\n",
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
    refs = list_videos([str(tmp_path)])
    assert len(refs) == 2
    for ref in refs:
        with pytest.raises(VideoError) as caught:
            probe_video(ref)
        assert caught.value.kind == "not_video"
    with av.open(str(tmp_path / "secret")) as container:
        assert container.streams.video
