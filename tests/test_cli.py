"""The command, as a process: what it prints, how it exits, and that it survives being killed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline import open_lake
from pipeline.cli import main
from tests.conftest import REPOSITORY
from tests.lakes import assert_same
from tests.synthetic import RECIPES, make_video

COMMAND = [sys.executable, "-m", "pipeline.cli"]
FAST = ["--scope", "frame", "--sample-fps", "5", "--workers", "2"]


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        check=False,
        env=os.environ | (env or {}),
        cwd=REPOSITORY,
        timeout=480,
    )


def here(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Do the same in this process, which takes a second less: where it is not the process that is asked about."""
    printed = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed[0]), redirect_stderr(printed[1]):
        patch.chdir(REPOSITORY)
        patch.setattr(sys, "argv", ["actionlake", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    stdout, stderr = (stream.detach().getvalue() for stream in printed)
    return subprocess.CompletedProcess(sys.argv, code, stdout, stderr)


def text(stream: bytes) -> str:
    return " ".join(stream.decode().split())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of twenty seconds, in which there is something to be killed."""
    folder = tmp_path_factory.mktemp("archive")
    make_video(folder / "00.mp4", RECIPES[1], n_frames=600)
    for number in range(1, 12):
        shutil.copy(folder / "00.mp4", folder / f"{number:02d}.mp4")
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options") / "job.toml"
    path.write_text("shard_videos = 3\nchunk_s = 4.0\n")
    return path


@pytest.fixture(scope="module")
def lake(archive: Path, options: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("lake") / "lake"
    done = run("analyze", archive, "--lake", target, "--config", options, *FAST)
    assert done.returncode == 0, done.stderr.decode()
    said = text(done.stdout)
    assert "12 videos, 0.067 h covered, 0 failed, 0 partial" in said
    assert "bottleneck: " in said
    assert re.search(r"12/12 videos, 60/60 chunks, [\d.]+ video-hours/h", text(done.stderr))
    assert "core_worker" not in done.stderr.decode()
    return target


@pytest.mark.e2e
def test_every_way_to_ask(lake: Path) -> None:
    query = "SELECT parse_filename(uri) AS video, count(*) AS n FROM segments GROUP BY 1 ORDER BY 1"
    expected = open_lake(str(lake)).sql(query).to_pylist()
    assert len(expected) == 12
    assert "00.mp4" in text(run("query", "--lake", lake, query).stdout)
    assert json.loads(here("query", "--lake", lake, query, "--format", "json").stdout) == expected
    as_csv = here("query", "--lake", lake, query, "--format", "csv").stdout
    assert pyarrow.csv.read_csv(io.BytesIO(as_csv)).to_pylist() == expected
    as_parquet = run("query", "--lake", lake, query, "--format", "parquet").stdout
    assert pq.read_table(io.BytesIO(as_parquet)).to_pylist() == expected


@pytest.mark.e2e
def test_info_tells_what_is_there(lake: Path) -> None:
    said = text(run("info", "--lake", lake).stdout)
    for fact in ("12 (0 partial, 0 failed)", "4 committed, 0 open", "jhmdb21-frame", "sample_fps = 5.0"):
        assert fact in said


@pytest.mark.e2e
def test_a_lake_is_checked_mended_and_compacted(lake: Path, archive: Path, options: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(lake, tmp_path / "lake")
    assert "nothing wrong in 4 committed shards" in text(here("verify", "--lake", copy).stdout)
    (copy / "failures" / "part-00002.parquet").unlink()
    wrong = run("verify", "--lake", copy)
    assert wrong.returncode == 1
    assert "failures/part-00002.parquet: is missing 1 problems; --repair takes out what is damaged" in text(
        wrong.stdout
    )
    mended = here("verify", "--lake", copy, "--repair")
    assert mended.returncode == 0
    assert "is missing: taken out; the same `actionlake analyze` makes it again" in text(mended.stdout)
    again = run("analyze", archive, "--lake", copy, "--config", options, *FAST)
    assert "3 videos" in text(again.stdout)
    assert "15 chunks decoded" in text(again.stdout)
    assert_same(copy, lake)
    assert text(here("compact", "--lake", copy).stdout).endswith("4 shards before, 1 now")
    assert "nothing wrong in 1 committed shards" in text(here("verify", "--lake", copy).stdout)
    assert "no lake there" in usage_error("verify", "--lake", tmp_path / "nowhere")


def usage_error(*arguments: str | Path) -> str:
    done = here(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr.decode()
    return text(done.stderr)


def test_mistakes_exit_with_2_and_one_clear_line(tmp_path: Path, archive: Path) -> None:
    lake = tmp_path / "lake"
    video = archive / "00.mp4"
    (tmp_path / "odd.toml").write_text("[features]\nsample_fsp = 3\n")
    (tmp_path / "wrong.toml").write_text('[features]\nsample_fps = "many"\n')
    (tmp_path / "broken.toml").write_text("a = = 1")
    (tmp_path / "inputs.toml").write_text('[features]\ninputs = ["frame_change"]')
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.json").write_text("{")
    assert "did you mean 'sample_fps'?" in usage_error(
        "analyze", video, "--lake", lake, "--config", tmp_path / "odd.toml"
    )
    assert "sample_fps = 'many': expected float, got str" in usage_error(
        "analyze", video, "--lake", lake, "--config", tmp_path / "wrong.toml"
    )
    assert "not valid TOML" in usage_error("analyze", video, "--lake", lake, "--config", tmp_path / "broken.toml")
    assert "labels in scope 'frame', but scope = 'person'" in usage_error(
        "analyze", video, "--lake", lake, "--scope", "person", "--model", "jhmdb21-frame"
    )
    assert "reads frame, but inputs lack frame" in usage_error(
        "analyze", video, "--lake", lake, "--model", "jhmdb21-frame", "--config", tmp_path / "inputs.toml"
    )
    assert "'crop' is not one of frame, frame_change, frame_flow in scope 'frame'" in usage_error(
        "train", tmp_path / "labels.csv", "--videos", tmp_path, "--out", lake, "--scope", "frame", "--inputs", "crop"
    )
    assert "unreadable model bundle" in usage_error("analyze", video, "--lake", lake, "--model", tmp_path / "bundle")
    assert "has no label 'swim'" in usage_error("analyze", video, "--lake", lake, "--labels", "walk,swim")
    assert "no lake there" in usage_error("query", "--lake", lake, "SELECT 1")
    assert "Missing option '--lake'" in usage_error("analyze", video)
    as_a_process = run("query", "--lake", lake, "SELECT 1")
    assert as_a_process.returncode == 2
    assert "no lake there" in text(as_a_process.stderr)
    assert "Traceback" not in as_a_process.stderr.decode()
    assert not lake.exists()


@pytest.mark.e2e
def test_who_is_on_the_street(data_dir: Path, tmp_path: Path) -> None:
    """With nothing but the defaults: people, their tracks, what they do, and a picture of it."""
    manifest = tmp_path / "street.csv"
    manifest.write_text(f"uri,start_s,end_s\n{data_dir}/street/vtest.avi,50,56\n")
    lake, picture = tmp_path / "lake", tmp_path / "people.png"
    done = run("analyze", manifest, "--lake", lake)
    assert done.returncode == 0, done.stderr.decode()
    tracks = open_lake(str(lake)).sql("SELECT * FROM tracks ORDER BY n_boxes DESC").to_pylist()
    assert tracks[0]["end_s"] - tracks[0]["start_s"] > 3.0
    assert {row["label"] for row in tracks} == {"person"}
    segments = open_lake(str(lake)).table("segments").to_pylist()
    assert {row["model"] for row in segments} == {"everyday12-pose"}
    assert {row["track_id"] for row in segments} <= {row["track_id"] for row in tracks}
    labels = Counter(row["label"] for row in segments)
    assert "background" not in labels
    assert labels["walk"] > sum(labels.values()) / 2, labels
    shown = run("picture", "--lake", lake, "--out", picture, "--at", "52")
    assert shown.returncode == 0, shown.stderr.decode()
    drawn = cv2.imread(str(picture))
    assert drawn.shape == (576, 768, 3)
    followed = re.search(r"(\d+) followed at 52\.\d+ s", text(shown.stdout))
    assert followed
    assert int(followed.group(1)) >= 1
    with av.open(str(data_dir / "street" / "vtest.avi")) as container:
        frames = container.decode(video=0)
        plain = next(frame for frame in frames if frame.time >= 52.0).to_ndarray(format="bgr24")
    changed = np.abs(drawn.astype(int) - plain).max(axis=-1) > 60
    assert 0.001 < changed.mean() < 0.2, "lines and captions, on the frame of that moment"
    assert "nobody was followed there" in usage_error("picture", "--lake", lake, "--out", picture, "--at", "5")
    assert "name it .png or .jpg" in usage_error("picture", "--lake", lake, "--out", tmp_path / "people.odd")
    assert "is the folder there?" in usage_error(
        "picture", "--lake", lake, "--out", tmp_path / "nowhere" / "people.png"
    )


@pytest.mark.e2e
def test_failed_videos_are_reported_and_strict_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "[red]name.mp4").write_text("no video")
    done = run("analyze", tmp_path / "videos", "--lake", tmp_path / "lake", "--strict", *FAST)
    assert done.returncode == 3
    assert "[red]name.mp4: not a video that can be read" in text(done.stdout)
    assert run("analyze", tmp_path / "videos", "--lake", tmp_path / "lake", *FAST).returncode == 0


@pytest.mark.e2e
def test_a_cluster_that_does_not_answer_is_a_job_error(tmp_path: Path, archive: Path) -> None:
    done = run("analyze", archive, "--lake", tmp_path / "lake", "--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in text(done.stderr)
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.e2e
def test_the_job_scripts_take_the_same_options(tmp_path: Path) -> None:
    for name in ("analyze", "train"):
        done = subprocess.run(
            [sys.executable, f"jobs/{name}.py", "--help"], capture_output=True, check=False, cwd=REPOSITORY
        )
        assert done.returncode == 0
        by_command = run(name, "--help")
        assert set(re.findall(rb"--[a-z-]+", done.stdout)) == set(re.findall(rb"--[a-z-]+", by_command.stdout))
