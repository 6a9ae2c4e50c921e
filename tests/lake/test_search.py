"""Search: exact, and by what the features tell."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.errors import UsageError
from pipeline.lake import schemas
from pipeline.lake.examples import Example, example_like
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.search import search
from pipeline.lake.search_index import open_index
from pipeline.lake.store import open_part
from pipeline.lake.stretches import PERSON, cut, cut_around, describe, sequences_of, steps_per_second
from pipeline.motion.poses import pose_motion
from pipeline.report.examples import read_examples
from tests.made_up import (
    CONFIG,
    DOES,
    FPS,
    RATE,
    MadeUpPerson,
    made,
    moment,
    places,
)


def by_hand(
    lake: LakeReader, video: str, track: int, first: int, end: int, limit: int
) -> list[tuple[str, int, float, float]]:
    """Return what a search should find, one stretch and one number at a time."""
    opened = open_index(lake.store, lake.feature_options, PERSON)
    assert opened is not None
    basis = opened[0]
    inputs = lake.feature_options["inputs"]
    queries: list[Any] = []
    scored = []
    everything = [f"v{number:02d}" for number in range(7)]
    for video_id, rows, track_ids in lake.videos(everything):
        for sequence in rows.track_sequences(track_ids):
            if (video_id, sequence.track_id) == (video, track):
                span = np.array([[first - sequence.first_step, end - sequence.first_step]])
                queries = [basis.vectors(describe(rows, sequence, span, inputs, mirrored)) for mirrored in (0, 1)]
    for video_id, rows, track_ids in lake.videos(everything):
        for sequence in rows.track_sequences(track_ids):
            if sequence.n_steps < 0.5 * FPS:
                continue
            for start, stop in cut(sequence.n_steps, RATE):
                a, b = sequence.first_step + start, sequence.first_step + stop
                (vector,) = basis.vectors(describe(rows, sequence, np.array([[start, stop]]), inputs))
                own = (video_id, sequence.track_id) == (video, track) and a < end and b > first
                if not own:
                    likeness = max(sum(float(x) * float(y) for x, y in zip(vector, q[0], strict=True)) for q in queries)
                    scored.append((likeness, video_id, sequence.track_id or 0, a / FPS, b / FPS))
    kept: list[tuple[str, int, float, float]] = []
    for _, *place in sorted(scored, reverse=True):
        if not any(place[:2] == list(k[:2]) and place[2] < k[3] - 1e-6 and place[3] > k[2] + 1e-6 for k in kept):
            kept.append((place[0], place[1], round(place[2], 6), round(place[3], 6)))
    return kept[:limit]


@pytest.mark.parametrize(
    ("text", "person", "limit"), [("v00@4.5", None, 10), ("v01@3", 1, 4), ("v06@0", 1, 100), ("v02@6", 4, 2)]
)
def test_what_is_found_is_what_a_loop_over_all_finds(
    lake: LakeReader, text: str, person: int | None, limit: int
) -> None:
    video, at = text.split("@")
    hits = search(lake, moment(lake, text, person), limit)
    track = person or 2
    first = {"v00@4.5": 18, "v01@3": 10, "v06@0": 0, "v02@6": 25}[text]
    assert abs(first + FPS - float(at) * FPS) <= FPS
    expected = by_hand(lake, video, track, first, first + 2 * FPS, limit)
    assert places(hits) == expected
    assert [hit.likeness for hit in hits] == sorted((hit.likeness for hit in hits), reverse=True)


def test_who_does_the_same_is_found_first_mirrored_or_not(lake: LakeReader) -> None:
    hits = search(lake, moment(lake, "v00@4.5"), 10)
    assert {hit.video_id for hit in hits[:3]} <= {"v00", "v02", "v04", "v06"}
    assert "v02" in {hit.video_id for hit in hits[:6]}, "whose people are mirrored"
    assert {DOES[hit.video_id, hit.track_id or 0] for hit in hits} == {2}
    assert hits[0].uri == f"/videos/{hits[0].video_id}.mp4"
    assert all(-1.001 <= hit.likeness <= 1.001 for hit in hits)


def test_a_mirrored_pose_is_as_like_as_the_pose(tmp_path: Path) -> None:
    """Without the mirrored query the mirrored person, otherwise the same, comes after who does something else."""
    config = replace(CONFIG, inputs=("box", "pose"))
    shards = [
        {"a": [MadeUpPerson(1, 1, 0, 10)], "b": [MadeUpPerson(1, 1, 0, 10, mirrored=True)]},
        {f"c{number}": [MadeUpPerson(1, number, 0, 10)] for number in range(2, 12)},
    ]
    lake = open_lake(made(tmp_path / "lake", shards, config).uri)
    hits = search(lake, moment(lake, "/a.mp4@1"), 3)
    assert hits[0].video_id == "b"
    assert hits[0].likeness > hits[1].likeness + 0.3


def test_the_numbers_of_a_stretch(lake: LakeReader) -> None:
    """They are means over steps, of vectors of length 1 and of poses; the trend is from half to half."""
    for _, rows, track_ids in lake.videos(["v01"]):
        sequence = next(iter(sequences_of(rows, track_ids, PERSON, RATE)))
        parts = describe(rows, sequence, np.array([[5, 15], [3, 4]]), lake.feature_options["inputs"])
        (vectors,) = rows.inputs(sequence, ["crop"])
    of_steps = [vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64)) for vector in vectors]
    np.testing.assert_allclose(parts["embedding"][0], np.mean(of_steps[5:15], axis=0), atol=2e-3)
    poses = pose_motion(rows.frames.pts_s[sequence.frame], sequence.xyxy, rows.boxes.keypoints[sequence.box])
    np.testing.assert_allclose(parts["places"][0], poses[5:15, :34].mean(axis=0), atol=2e-3)
    halves = poses[10:15, :34].mean(axis=0) - poses[5:10, :34].mean(axis=0)
    np.testing.assert_allclose(parts["trend"][0], halves, atol=2e-3)
    np.testing.assert_allclose(parts["trend"][1], 0, atol=1e-6)
    speeds = np.abs(poses[5:15, 51:]).mean(axis=0)
    np.testing.assert_allclose(parts["pace"][0], np.log(0.1 + speeds), atol=1e-2)


def test_sequences_are_cut_into_stretches() -> None:
    assert cut(12, RATE).tolist() == [[0, 10], [2, 12]]
    assert cut(20, RATE).tolist() == [[0, 10], [5, 15], [10, 20]]
    assert cut(7, RATE).tolist() == [[0, 7]]
    assert cut(3, steps_per_second({"sample_fps": 0.1})).tolist() == [[0, 2], [1, 3]]
    assert cut_around(0, 0, 60, RATE).tolist() == [[0, 10]]
    assert cut_around(59, 59, 60, RATE).tolist() == [[50, 60]]
    assert cut_around(22.5, 22.5, 60, RATE).tolist() == [[18, 28]]
    assert cut_around(20, 40, 60, RATE).tolist() == [[20, 30], [25, 35], [30, 40]]
    assert cut_around(1, 2, 7, RATE).tolist() == [[0, 7]]


def test_a_query_never_finds_itself_nor_overlaps(lake: LakeReader) -> None:
    hits = search(lake, moment(lake, "v00@4.5", 1), 100)
    own = [hit for hit in hits if (hit.video_id, hit.track_id) == ("v00", 1)]
    assert own, "another time of the same person is found"
    assert all(hit.end_s <= 3.6 + 1e-6 or hit.start_s >= 5.6 - 1e-6 for hit in own)
    for hit in hits:
        same = [h for h in hits if h is not hit and (h.video_id, h.track_id) == (hit.video_id, hit.track_id)]
        assert all(h.end_s <= hit.start_s + 1e-6 or h.start_s >= hit.end_s - 1e-6 for h in same)


def test_videos_can_be_left_out(lake: LakeReader) -> None:
    query = moment(lake, "v00@4.5")
    assert "v00" not in {hit.video_id for hit in search(lake, query, 100, other_videos=True)}
    assert {hit.video_id for hit in search(lake, query, 100, where="uri LIKE '%v02%' OR shard = 2")} == {"v02", "v06"}
    assert search(lake, query, 10, where="false") == []


def test_a_segment_is_looked_for_and_hits_tell_their_labels(lake: LakeReader) -> None:
    hits = search(lake, [example_like(lake, "v03-p000000")], 5)
    assert {DOES[hit.video_id, hit.track_id or 0] for hit in hits} == {1}
    assert hits[0].like == "wave"
    assert all(hit.labels == () for hit in hits if hit.video_id != "v03")
    (found,) = search(lake, moment(lake, "v01@5", 1), 1, where="video_id = 'v03'")
    assert (found.track_id, found.labels[0]) == (2, "wave")
    labelled = {hit.labels for hit in search(lake, moment(lake, "v01@5", 1), 9, where="video_id = 'v03'", model="m")}
    assert labelled == {("wave",), ("wave", "walk"), ("somebody else's",)}


def test_examples_of_several_labels_and_of_what_is_not_meant(lake: LakeReader, tmp_path: Path) -> None:
    table = tmp_path / "answers.csv"
    table.write_text("video,start_s,end_s,label\nv01.mp4,1,9,one\nv03.mp4,0,6,three\nv02.mp4,0,12,background\n")
    examples = read_examples(lake, table)
    assert [each.is_negative for each in examples] == [False, False, True]
    hits = search(lake, examples, 100)
    did = {(DOES[hit.video_id, hit.track_id or 0], hit.like) for hit in hits if hit.likeness > 0.5}
    assert did == {(1, "one"), (3, "three")}
    assert not any(DOES[hit.video_id, hit.track_id or 0] == 2 for hit in hits), "more like the negative example"
    without = search(lake, [each for each in examples if not each.is_negative], 100)
    assert any(DOES[hit.video_id, hit.track_id or 0] == 2 for hit in without)


def test_frames_stand_in_where_both_are_labelled_and_nobody_is_there(tmp_path: Path) -> None:
    config = replace(CONFIG, scope="both", inputs=("frame", "crop", "box", "pose"))
    lake = open_lake(made(tmp_path / "lake", config=config).uri)
    assert {hit.track_id for hit in search(lake, moment(lake, "v05@4"), 5)} == {None}
    assert None not in {hit.track_id for hit in search(lake, moment(lake, "v00@4"), 5)}


@pytest.mark.parametrize(
    ("text", "person", "message"),
    [
        ("v99@1", None, r"no video of .*lake has 'v99' in its path; it holds /videos/v00.mp4, .*, \.\.\.$"),
        ("mp4@1", None, r"7 videos have 'mp4' in their path: /videos/v00.mp4, .*; name more of one"),
        ("v00@12", None, r"'v00@12': /videos/v00.mp4 ends at 12.00 s"),
        ("v00@-1", None, r"starts at 0 s"),
        ("v00@nan", None, r"starts at 0 s"),
        ("v00@noon", None, r"'noon' are no seconds; write VIDEO@12.5"),
        ("v05@1", None, r"/videos/v05.mp4 at 1 s: nobody is followed there; nor elsewhere in the video"),
        ("v03@6.5", None, r"nobody is followed there; the video has person 1 from 0.0 to 6.0 s, person 2 from 7.0"),
        ("v03@6.5", 2, r"person 2 is not followed there; the video has person 2 from 7.0 to 11.0 s, person 1"),
        ("v03@1", 9, r"person 9 is not followed there; the video has person 1"),
        ("v03-p000009", None, r"no such segment in .*; name a moment, VIDEO@12.5, or a segment_id"),
        ("v03-p000000", 1, r"a segment already is one person's"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(lake: LakeReader, text: str, person: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search(lake, moment(lake, text, person))


def test_other_mistakes(folder: Path, lake: LakeReader, tmp_path: Path) -> None:
    query = moment(lake, "v00@4.5")
    with pytest.raises(UsageError, match=r"--where 'colour = 1': no condition on the columns of videos \(.*colour"):
        search(lake, query, where="colour = 1")
    with pytest.raises(UsageError, match="limit 0"):
        search(lake, query, 0)
    with pytest.raises(UsageError, match="all examples are negative"):
        search(lake, [replace(query[0], is_negative=True)])
    with pytest.raises(UsageError, match=r"^gone.mp4: nothing of its video was seen$"):
        search(lake, [Example("gone", 0, 1, where="gone.mp4")])
    with pytest.raises(UsageError, match="not labelled by 'x', but by m"):
        search(lake, query, model="x")
    empty = made(tmp_path / "empty", [])
    with pytest.raises(UsageError, match="no video is finished yet"):
        moment(open_lake(empty.uri), "v00@1")
    with pytest.raises(UsageError, match="no video is finished yet"):
        search(open_lake(empty.uri), query)
    shutil.rmtree(folder / "features")
    with pytest.raises(UsageError, match=r"its features were not kept \(keep_features = false\)"):
        search(lake, query)


def test_mistaken_examples(lake: LakeReader, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "answers.csv"
    with pytest.raises(UsageError, match=r"answers.csv: no such file"):
        read_examples(lake, table)
    (tmp_path / "answers.odt").write_text("one")
    with pytest.raises(UsageError, match=r"answers.odt: not a format .* or of search with --examples-format"):
        read_examples(lake, tmp_path / "answers.odt")
    table.write_text("video,start_s,end_s,label\nelsewhere.mp4,1,9,one\n")
    with pytest.raises(UsageError, match=r"answers.csv.*: no video 'elsewhere.mp4' in lake"):
        read_examples(lake, table)
    table.write_text("video,start_s,end_s,label\nv05.mp4,1,9,one\n")
    with pytest.raises(UsageError, match=r"answers.csv.*: nobody is followed there"):
        search(lake, read_examples(lake, table))
    table.write_text("video,start_s,end_s,label\nv05.mp4,1,9,one\nv00.mp4,,,one\n")
    assert search(lake, read_examples(lake, table), 3)
    assert "1 of 2 examples are left out; the first: " in caplog.text


def test_one_id_of_two_models(lake: LakeReader) -> None:
    segment = {"video_id": "v03", "segment_id": "v03-p000000", "scope": "person", "track_id": 1, "label": "sit",
               "start_s": 0.0, "end_s": 3.0}  # fmt: skip
    with open_part(lake.store, "segments/model=n", 1, schemas.with_footer(schemas.SEGMENTS)) as part:
        part.write_rows([segment])
    with pytest.raises(UsageError, match=r"segments of m, n have this id; name one with --model"):
        example_like(lake, "v03-p000000")
    assert example_like(lake, "v03-p000000", model="n").track_id == 1


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["search", *map(str, arguments)], env={"COLUMNS": "200"})


def test_the_command(folder: Path, lake: LakeReader, tmp_path: Path) -> None:
    expected = search(lake, moment(lake, "v01@5", 1), 4)
    options = ["--lake", folder, "--like", "v01@5", "--person", "1", "--limit", "4"]
    as_json = run(*options, "--format", "json")
    assert as_json.exit_code == 0, as_json.exception
    rows = json.loads(as_json.stdout)
    assert list(rows[0]) == ["likeness", "video", "start_s", "end_s", "person", "labels"]
    assert [(row["video"], row["person"], row["start_s"]) for row in rows] == [
        (hit.uri, hit.track_id, hit.start_s) for hit in expected
    ]
    as_csv = list(csv.DictReader(io.StringIO(run(*options, "--format", "csv").stdout)))
    assert [float(row["likeness"]) for row in as_csv] == pytest.approx([hit.likeness for hit in expected])
    as_table = run(*options).stdout
    assert expected[0].uri.rpartition("/")[2] in as_table
    assert f"{expected[0].likeness:.3f}" in as_table
    answers = tmp_path / "answers.csv"
    answers.write_text("video,start_s,end_s,label\nv01.mp4,1,9,one\n")
    labelled = json.loads(run("--lake", folder, "--examples", answers, "--format", "json").stdout)
    assert {row["like"] for row in labelled} == {"one"}
    for wrong, message in (
        (["--lake", folder], "by one of --like VIDEO@SECONDS, --examples FILE"),
        (["--lake", folder, "--like", "v01@5", "--examples", answers], "by one of --like"),
        (["--lake", folder, "--examples", answers, "--person", "1"], "--person goes with --like"),
        (["--lake", tmp_path, "--like", "v01@5"], "no lake there"),
    ):
        failed = run(*wrong)
        assert isinstance(failed.exception, UsageError)
        assert message in str(failed.exception)
