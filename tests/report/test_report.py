"""Reports, clips and annotated videos by the command: what is written, and what is told where something lacks."""

from __future__ import annotations

import csv
import itertools
import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline.engine.cuts import cut_here, cutting
from pipeline.errors import UsageError
from pipeline.lake.query import open_lake
from pipeline.lake.search import Hit
from pipeline.report.cutting import LONGEST_S, CutOptions, Cutter, plan_cuts
from pipeline.report.report import write_hits, write_report
from pipeline.report.scene import read_scene
from pipeline.training.formats import read_annotations
from tests.lakes import lake_of_segments
from tests.shown import NAME_OF_EVIL, SIZE, make_lake, video_id
from tests.synthetic import read_number
from tests.test_cli import here, run, text, usage_error


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("shown"))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    record: dict[str, Any] = json.loads(found[1])
    return record


def test_a_report_is_one_page_and_a_folder(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    told = text(run("report", "--lake", lake, "--out", out, "--title", "a </title><b>").stdout)
    assert "18 segments, 3 clips" in told
    assert sorted(path.name for path in out.iterdir()) == ["clips", "index.html"]
    page = out / "index.html"
    data = data_of(page)
    assert data["labels"][:3] == ["sit", "walk", "fall"]
    assert NAME_OF_EVIL in data["labels"]
    assert NAME_OF_EVIL not in page.read_text(encoding="utf-8")
    assert "<title>a &lt;/title&gt;&lt;b&gt;</title>" in page.read_text(encoding="utf-8")
    for clip in data["clips"]:
        assert (out / clip["file"]).is_file()
        assert (out / clip["scene"]).read_text().startswith(f'actionlakeScene("{clip["scene"]}", ')
        assert (clip["start"], clip["end"]) == (0.0, pytest.approx(6.0))
    assert len(data["thumbs"]) == 18
    assert {(out / name).is_file() for name in data["thumbs"].values()} == {True}
    # Nothing that it shows is asked of a network.
    assert not re.findall(r"""(?:src|href)=["']?https?:""", page.read_text(encoding="utf-8"))
    # Again, over the first: nothing of that one stays.
    (out / "clips" / "old.mp4").write_bytes(b"old")
    assert here("report", "--lake", lake, "--out", out, "--where", "video_id = '0000000000000000'").returncode == 0
    assert len(list((out / "clips").glob("*.mp4"))) == 1
    assert len(data_of(page)["segments"]["id"]) == 6


def test_what_can_not_be_cut_is_told_and_the_rest_is_there(lake: Path, tmp_path: Path) -> None:
    videos = sorted((lake.parent / "videos").iterdir())
    kept = videos[2].read_bytes()
    moved = videos[0].rename(tmp_path / videos[0].name)
    try:
        videos[2].write_bytes(kept + b"x")
        shown = here("report", "--lake", lake, "--out", tmp_path / "report")
        assert shown.returncode == 0
        told = text(shown.stderr)
        assert f"6 segments without a clip: {videos[0]}: not there any more; if the videos were moved" in told
        assert f"6 segments without a clip: {videos[2]}: another file than the one that was analyzed" in told
        data = data_of(tmp_path / "report" / "index.html")
        assert (len(data["clips"]), len(data["without_clip"]), data["note"]) == (1, 12, "clips for 6")
        videos[2].write_bytes(kept)
        (tmp_path / "other").mkdir()
        found = here("clips", "--lake", lake, "--out", tmp_path / "clips", "--videos-root", tmp_path, "--where",
                    "video_id = '0000000000000000'")  # fmt: skip
        assert "6 clips" in text(found.stdout)
        lost = here("clips", "--lake", lake, "--out", tmp_path / "none", "--videos-root", tmp_path / "other")
        assert "no videos in it" in text(lost.stderr)
        assert "0 clips" in text(lost.stdout)
    finally:
        videos[2].write_bytes(kept)
        moved.rename(videos[0])


def test_clips_take_no_more_room_than_is_given(lake: Path, tmp_path: Path) -> None:
    told = write_report(str(lake), tmp_path / "report", cut_here, max_mb=0.0)
    assert (told.n_clips, len(told.without_clip)) == (0, 18)
    assert set(told.without_clip.values()) == {"the clips before it took all of --max-mb"}
    told = write_report(str(lake), tmp_path / "report", cut_here, max_mb=0.4)
    assert told.n_clips == 1
    largest = max(path.stat().st_size for path in (tmp_path / "report" / "clips").iterdir())
    # What was cut, and is larger than was thought, is taken away again.
    told = write_report(str(lake), tmp_path / "report", cut_here, where="end_s <= 1 OR end_s = 2", max_mb=largest / 2e6)
    assert sum(path.stat().st_size for path in (tmp_path / "report" / "clips").iterdir()) <= largest / 2


def test_a_folder_of_something_else_is_left_alone(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    assert "that are no report's" in usage_error("report", "--lake", lake, "--out", tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"
    (tmp_path / "archive" / "clips").mkdir(parents=True)
    (tmp_path / "archive" / "clips" / "mine.mp4").write_text("mine")
    assert "that are no report's" in usage_error("report", "--lake", lake, "--out", tmp_path / "archive")
    assert (tmp_path / "archive" / "clips" / "mine.mp4").read_text() == "mine"
    (tmp_path / "file").write_text("")
    assert "can't be written to" in usage_error("report", "--lake", lake, "--out", tmp_path / "file")
    assert "no segment meets --where" in usage_error(
        "report", "--lake", lake, "--out", tmp_path / "r", "--where", "score > 2"
    )
    assert "--where" in usage_error("clips", "--lake", lake, "--out", tmp_path / "r", "--where", "colour = 1")
    assert not (tmp_path / "r").exists()


def test_clips_are_named_by_what_they_hold_and_listed(lake: Path, tmp_path: Path) -> None:
    told = here(
        "clips", "--lake", lake, "--out", tmp_path, "--margin", "0.5", "--where", "score >= 0.8 AND track_id = 1"
    )
    assert "3 clips" in text(told.stdout)
    names = ["20240503_140000_00000.00_walk_person1.mp4", "20240503_140000_00002.00_sit_person1.mp4",
             "20240503_140000_00004.00_fall_person1.mp4"]  # fmt: skip
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == names
    rows = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert [row["file"] for row in rows] == names
    assert (rows[1]["label"], rows[1]["start_s"], rows[1]["track_id"]) == ("sit", "2.0", "1")
    assert [each.label for each in read_annotations(tmp_path / "clips.csv")] == ["walk", "sit", "fall"]
    with av.open(str(tmp_path / names[1])) as container:
        frames = list(container.decode(video=0))
        first = read_number(frames[0].to_ndarray(format="rgb24"))
    assert first == round(30 * float(rows[1]["clip_start_s"]))
    assert first <= 45 < 134 <= first + len(frames) - 1


def test_names_of_one_video_and_moment_stay_apart(lake: Path, tmp_path: Path) -> None:
    uri = open_lake(str(lake)).table("videos")["uri"][0].as_py()
    twice = [{"uri": uri, "segment_id": f"s{n}", "label": label, "start_s": 1.0, "end_s": 2.0, "score": 0.5}
             for n, label in enumerate(["a/b", "a b", "A:B", "../.."])]  # fmt: skip
    other = lake_of_segments(tmp_path / "lake", {uri: 6.0}, twice)
    assert "4 clips" in text(here("clips", "--lake", other, "--out", tmp_path / "clips").stdout)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == sorted(
        ["20240503_140000_00001.00_A-B.mp4", "20240503_140000_00001.00_a-b_2.mp4",
         "20240503_140000_00001.00_a-b_3.mp4", "20240503_140000_00001.00_video.mp4", "clips.csv"]
    )  # fmt: skip


def test_people_are_drawn_in(lake: Path, tmp_path: Path) -> None:
    assert here("video", "--lake", lake, "140000", "--out", tmp_path / "all.mp4").returncode == 0
    with av.open(str(tmp_path / "all.mp4")) as container:
        drawn = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(drawn) == 180
    # In step k the first person's left side is at 50 + 2 k pixels; its colour is no grey.
    for number in (0, 90, 150):
        x = round(50 + 2 * number / 3)
        edge = drawn[number][90:130, x - 1 : x + 2]
        assert np.ptp(edge.mean(axis=(0, 1))) > 40, number
    assert "has 'nothing' in its path; it holds" in usage_error(
        "video", "--lake", lake, "nothing", "--out", tmp_path / "a.mp4"
    )
    assert "3 videos have" in usage_error("video", "--lake", lake, "2024", "--out", tmp_path / "a.mp4")
    source = lake.parent / "videos" / "20240503_140000.mp4"
    assert "is the video itself" in usage_error("video", "--lake", lake, "140000", "--out", source)
    assert "name it .mp4" in usage_error("video", "--lake", lake, "140000", "--out", tmp_path / "a.avi")


def test_between_two_views_people_move_along(lake: Path) -> None:
    scene = read_scene(open_lake(str(lake)), video_id(0), 1.0, 2.0)
    assert sorted(scene.tracks) == [1, 2]
    one, two = scene.at(1.45)
    assert (one.track_id, two.track_id, one.label) == (1, 2, "walk")
    assert one.xyxy.tolist() == [79.0, 40.0, 119.0, 140.0]
    assert one.keypoints[1].tolist() == pytest.approx([84.0, 45.0, 0.9])
    assert scene.at(0.5) == []
    assert scene.at(3.0) == []


def test_long_segments_are_cut_into_pieces_that_follow_each_other(tmp_path: Path) -> None:
    rows = [{"uri": "/v/a.mp4", "segment_id": f"s{n}", "label": "sit", "start_s": 15.0 * n, "end_s": 15.0 * n + 14.5,
             "score": 0.5, "track_id": 1} for n in range(20)]  # fmt: skip
    rows.append(rows[0] | {"segment_id": "long", "start_s": 1000.0, "end_s": 9000.0})
    reader = open_lake(str(lake_of_segments(tmp_path / "lake", {"/v/a.mp4": 299.5}, rows)))
    cuts = plan_cuts(reader, reader.segments().to_pylist())
    assert all(cut.end_s - cut.start_s <= LONGEST_S for cut in cuts)
    assert [b.start_s - a.end_s for a, b in itertools.pairwise(cuts[:5])] == [0.0] * 4
    assert (cuts[0].start_s, cuts[-2].end_s) == (0.0, 299.5)
    # The header told of less than there is: the segment is believed, and its beginning shown.
    assert (cuts[-1].start_s, cuts[-1].end_s) == (999.0, 1020.0)
    assert sorted(still.segment_id for cut in cuts for still in cut.stills) == sorted(row["segment_id"] for row in rows)


def test_a_worker_that_dies_costs_its_clip(lake: Path, tmp_path: Path) -> None:
    """A path that is no folder ends a job; what makes the process die ends one clip."""
    reader = open_lake(str(lake))
    cuts = plan_cuts(reader, reader.segments().to_pylist())
    options = CutOptions(str(lake), str(tmp_path / "clips"))
    from tests.dying import DYING, dying_cuts

    results = {cut.name: result for cut, result in dying_cuts(options, cuts)}
    assert [name for name, result in results.items() if result.failure] == [DYING]
    assert "the process that cut it died" in results[DYING].failure


def test_clips_are_cut_on_a_cluster(lake: Path, local_ray: None, tmp_path: Path) -> None:
    with cutting() as run_cuts:
        there = write_report(str(lake), tmp_path / "there", run_cuts)
    here = write_report(str(lake), tmp_path / "here", cut_here)
    assert (there.n_clips, there.n_segments) == (here.n_clips, here.n_segments) == (3, 18)
    for path in sorted((tmp_path / "here").rglob("*")):
        if path.is_file():
            assert (tmp_path / "there" / path.relative_to(tmp_path / "here")).read_bytes() == path.read_bytes(), path


def test_an_unforeseen_error_costs_its_clip(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_lake(str(lake))
    (cut, *_) = plan_cuts(reader, reader.segments().to_pylist())
    cutter = Cutter(CutOptions(str(lake), str(tmp_path)))
    monkeypatch.setattr("pipeline.report.cutting.write_clip", lambda *_: 1 / 0)
    assert "cutting failed, a fault of the program: ZeroDivisionError" in cutter.cut(cut).failure
    with pytest.raises(UsageError, match="has 'x' in its path"):
        reader.video("x")
    assert reader.video("140000")["width"] == SIZE[0]
    assert pc.sum(reader.table("videos")["width"]).as_py() == 3 * SIZE[0]


def test_what_a_search_finds_is_a_page(lake: Path, tmp_path: Path) -> None:
    uris = open_lake(str(lake)).table("videos")["uri"].to_pylist()
    hits = [
        Hit(0.9, video_id(2), uris[2], 3.0, 5.0, 1, "", ("sit", "fall")),
        Hit(-0.1, video_id(0), uris[0], 0.5, 2.5, 2, "", ()),
    ]
    written = write_hits(str(lake), hits, "like x@1", tmp_path / "hits", cut_here)
    data = data_of(written.path)
    assert (data["title"], data["labels"], data["segments"]["id"]) == (
        "like x@1",
        ["(no label)", "sit, fall"],
        ["hit-0001", "hit-0002"],
    )
    assert data["segments"]["score"] == [0.9, 0.0]
    assert (written.n_clips, data["ranked"], data["score_name"]) == (2, True, "likeness")
    with pytest.raises(UsageError, match="nothing was found"):
        write_hits(str(lake), [], "like x@1", tmp_path / "none", cut_here)
