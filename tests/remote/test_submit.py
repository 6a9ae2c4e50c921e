"""Jobs at a real head with its job server: submitted, refused, failing, stopped and taken up again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from pipeline.engine.ray.submit import pack_inputs
from pipeline.errors import UsageError
from pipeline.lake.progress import progress_of
from pipeline.lake.store import Lake
from tests.conftest import REPOSITORY
from tests.lakes import assert_same, leftovers
from tests.remote.conftest import Head
from tests.test_cli import run, text


@pytest.mark.e2e
def test_a_submitted_job_does_what_a_local_one_does(
    head: Head, archive: Path, options: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options lie where the cluster does not look; they travel. So does the code, from another folder."""
    command = ["analyze", archive, "--config", options, "--lake"]
    local = run(*command, tmp_path / "local")
    assert local.returncode == 0, local.stderr
    remote = run("submit", "--address", head.url, "--", *command, tmp_path / "lake", env=head.env)
    assert remote.returncode == 0, remote.stderr.decode()
    assert "8 videos" in text(remote.stderr), "what the job says"
    assert_same(tmp_path / "lake", tmp_path / "local")


@pytest.mark.e2e
def test_a_mistake_is_told_and_shown_in_the_jobs_state(head: Head, tmp_path: Path) -> None:
    command = ["analyze", tmp_path / "nothing", "--lake", tmp_path / "lake"]
    done = run("submit", "--address", head.url, "--id", "mistake", "--", *command, env=head.env)
    assert done.returncode == 2
    assert "nothing: no such file or folder" in text(done.stderr)
    assert "Traceback" not in done.stderr.decode()
    assert head.state("mistake") == "FAILED"


@pytest.mark.e2e
@pytest.mark.long
def test_a_job_that_was_stopped_is_taken_up_by_the_same_command(
    head: Head, archive: Path, options: Path, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    command = ["--", "analyze", archive, "--config", options, "--lake", lake]
    done = run("submit", "--address", head.url, "--id", "stopped", "--detach", *command, env=head.env)
    assert done.returncode == 0, done.stderr
    while not (lake / "_plan").is_dir() or progress_of(Lake(str(lake))).n_chunks_done < 5:
        assert head.state("stopped") != "FAILED"
    # Ray's own command would take as long to start as the job to end.
    head.ask("/api/jobs/stopped/stop", {})
    while head.state("stopped") == "RUNNING":
        time.sleep(0.1)
    assert head.state("stopped") == "STOPPED"
    seen = run("status", "--lake", lake)
    assert "nobody works on it" in text(seen.stdout)
    before = progress_of(Lake(str(lake))).n_chunks_done
    assert before < 8 * 10
    again = run("submit", "--address", head.url, *command, env=head.env)
    assert again.returncode == 0, again.stderr.decode()
    assert progress_of(Lake(str(lake))).is_done
    run("analyze", archive, "--config", options, "--lake", tmp_path / "local")
    assert_same(lake, tmp_path / "local")
    assert leftovers(lake) == []


@pytest.mark.e2e
def test_nothing_is_done_for_who_has_no_token(head: Head, tmp_path: Path) -> None:
    assert head.get("/api/jobs/", None) == 401
    assert head.get("/api/jobs/", "f" * 32) == 403
    done = run("submit", "--address", head.url, "--", "analyze", tmp_path, "--lake", tmp_path / "lake")
    assert done.returncode == 1
    assert f"{head.url} wants a token" in text(done.stderr)
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.e2e
@pytest.mark.long
def test_nobody_joins_without_a_token(head: Head, archive: Path, tmp_path: Path) -> None:
    """Ray itself tries for 20 seconds, and then says that it could not connect."""
    done = run("analyze", archive, "--lake", tmp_path / "lake", "--address", head.address)
    assert done.returncode == 1
    assert f"{head.address} wants a token" in text(done.stderr)


@pytest.mark.e2e
@pytest.mark.long
def test_rays_own_command_runs_the_job_scripts(head: Head, archive: Path, options: Path, tmp_path: Path) -> None:
    """As the README has it; the working directory that travels is a copy of what a job needs."""
    for folder in ("jobs", "pipeline"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "code" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    said = head.ray(
        "job", "submit", "--address", head.url, "--working-dir", str(tmp_path / "code"), "--",
        "python", "jobs/analyze.py", str(archive), "--config", str(options), "--lake", str(tmp_path / "lake"),
    )  # fmt: skip
    assert "8 videos" in said
    assert progress_of(Lake(str(tmp_path / "lake"))).is_done


def test_nobody_at_the_address(tmp_path: Path) -> None:
    done = run("submit", "--address", "http://127.0.0.1:1", "--", "analyze", tmp_path, "--lake", tmp_path / "lake")
    assert done.returncode == 1
    assert "no job server answers at http://127.0.0.1:1" in text(done.stderr)


def test_files_that_a_command_names_travel_and_videos_do_not(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "bundle").mkdir(parents=True)
    for name in ("job.toml", "list.csv", "video.mp4", "bundle/model.json"):
        (here / name).write_text(name)
    command = [
        "analyze", f"{here}/list.csv", f"{here}/video.mp4", "s3://a/b.csv", f"--config={here}/job.toml",
        "--model", f"{here}/bundle", "--detector", "yolo11n.pt", "--lake", f"{here}/list.csv",
    ]  # fmt: skip
    packed = pack_inputs(command, there)
    assert packed == [
        "analyze", "inputs/1/list.csv", f"{here}/video.mp4", "s3://a/b.csv", "--config=inputs/4/job.toml",
        "--model", "inputs/6/bundle", "--detector", "yolo11n.pt", "--lake", f"{here}/list.csv",
    ]  # fmt: skip
    assert (there / "inputs/1/list.csv").read_text() == "list.csv"
    assert (there / "inputs/4/job.toml").read_text() == "job.toml"
    assert (there / "inputs/6/bundle/model.json").read_text() == "bundle/model.json"


def test_what_is_too_large_to_travel_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "weights.pt", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(UsageError, match=r"weights\.pt: too large to travel"):
        pack_inputs(["analyze", "--detector", str(tmp_path / "weights.pt")], tmp_path / "there")


def test_only_jobs_are_submitted(tmp_path: Path) -> None:
    done = run("submit", "--address", "http://127.0.0.1:1", "--", "query", tmp_path, "SELECT 1")
    assert done.returncode == 2
    assert "only analyze, classify, forecast, train can be submitted" in text(done.stderr)
