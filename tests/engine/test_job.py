"""Whole jobs on Ray, on this machine: bad files, both layouts, dead workers, later runs."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pipeline import Config, UsageError, analyze, load_bundle, open_lake
from pipeline.cli.tables import closing_table
from pipeline.engine.board import JobState
from pipeline.engine.fork_server import fork_server
from pipeline.engine.models import choose_models
from pipeline.errors import Interrupted
from tests.archive.test_probe import write_audio
from tests.lakes import assert_same, rows
from tests.synthetic import RECIPES, make_slow_video, make_video
from tests.video.test_decode import packet_positions

pytestmark = pytest.mark.e2e

run = partial(analyze, engine="local")
Processes = Callable[[], list[psutil.Process]]
FAST = Config(scope="frame", sample_fps=5.0, chunk_s=0.5, shard_videos=4)
ALONE = replace(FAST, workers=1)
"""For a video or two: starting a second worker takes longer than they do."""


@pytest.fixture(scope="module")
def videos(numbered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format, and everything that goes wrong with files."""
    folder = tmp_path_factory.mktemp("videos")
    for path in numbered.iterdir():
        shutil.copy(path, folder)
    bad = folder / "bad"
    bad.mkdir()
    (bad / "text.mp4").write_text("this is no video " * 50)
    (bad / "empty.mp4").touch()
    write_audio(bad / "audio.mp4")
    long = make_video(folder / "whole.avi", next(r for r in RECIPES if r.name == "mjpeg.avi"), n_frames=300)
    (bad / "short.avi").write_bytes(long.read_bytes()[: packet_positions(long)[150]])
    damaged = bytearray((numbered / "h264.mp4").read_bytes())
    positions = packet_positions(numbered / "h264.mp4")
    damaged[positions[26] + 16 : positions[29]] = b"\x5a" * (positions[29] - positions[26] - 16)
    (bad / "damaged.mp4").write_bytes(damaged)
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("undisturbed") / "lake"
    state = run([str(videos)], str(lake), config=FAST)
    assert (state.n_videos_done, state.n_failed, state.n_partial) == (22, 3, 2)
    return lake


def test_every_file_has_a_row_and_bad_ones_say_why(undisturbed: Path) -> None:
    lake = open_lake(str(undisturbed))
    videos = {row["uri"].rsplit("/", 1)[1]: row for row in lake.table("videos").to_pylist()}
    assert len(videos) == 22
    failures = {row["uri"].rsplit("/", 1)[1]: row for row in lake.table("failures").to_pylist()}
    assert {name: (videos[name]["status"], row["stage"], row["kind"]) for name, row in failures.items()} == {
        "text.mp4": ("failed", "probe", "not_video"),
        "empty.mp4": ("failed", "probe", "empty"),
        "audio.mp4": ("failed", "probe", "no_video_stream"),
        "short.avi": ("partial", "decode", "truncated"),
        "damaged.mp4": ("partial", "decode", "corrupt"),
    }
    assert all(row["message"].startswith(row["uri"]) for row in failures.values())
    assert videos["short.avi"]["truncated"]
    assert 4.0 < videos["short.avi"]["covered_s"] < 6.0
    good = [row for name, row in videos.items() if name not in failures]
    assert {row["status"] for row in good} == {"ok"}
    assert all(abs(row["covered_s"] - row["duration_s"]) < 0.07 for row in good)


def test_segments_cover_what_was_seen(undisturbed: Path) -> None:
    covered = open_lake(str(undisturbed)).sql(
        "SELECT v.uri, v.covered_s, sum(s.end_s - s.start_s) AS labelled, min(s.start_s) AS first, max(s.end_s) AS last"
        " FROM videos v JOIN segments s USING (video_id) GROUP BY ALL"
    )
    assert len(covered) == 19
    for row in covered.to_pylist():
        assert row["labelled"] == pytest.approx(row["covered_s"])
        assert row["first"] == 0.0


def test_parts_are_sorted_and_named_after_their_shard(undisturbed: Path) -> None:
    names = {path.name for path in (undisturbed / "videos").iterdir()}
    assert names == {f"part-{shard:05d}.parquet" for shard in range(6)}
    for table in ("segments/model=jhmdb21-frame", "features", "detections", "failures"):
        assert {path.name for path in (undisturbed / table).iterdir()} == names
    assert not (undisturbed / "_work" / "00000").exists()
    lake = open_lake(str(undisturbed))
    for fragment in lake.dataset("segments").get_fragments():
        keys = [(row["video_id"], row["start_s"]) for row in fragment.to_table().to_pylist()]
        assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        # The rows are those of the test below that kills a worker of it.
        pytest.param({}, "fused: 2 workers decode and extract on 0.5 GPU each, 1 label", marks=pytest.mark.long),
        ({"device": "cpu"}, "fused: 2 workers decode and extract, 1 label"),
        (
            {"layout": "split", "gpus_per_actor": 0.5, "workers": 1},
            "split: 1 workers decode, 2 extract on 0.5 GPU each, 1 label",
        ),
    ],
)
def test_ray_writes_the_same_rows_in_every_layout(
    options: dict[str, Any], layout: str, videos: Path, undisturbed: Path, local_ray: None, tmp_path: Path
) -> None:
    """On Ray's own workers, with a part of a (logical) GPU or none, or frames passed on to those who have one."""
    state = analyze([str(videos)], str(tmp_path / "lake"), config=replace(FAST, **options))
    assert state.layout == layout
    assert_same(tmp_path / "lake", undisturbed)


def test_the_same_command_again_does_nothing_again(videos: Path, undisturbed: Path, tmp_path: Path) -> None:
    lake = shutil.copytree(undisturbed, tmp_path / "lake")
    before = {path: path.stat().st_mtime_ns for path in lake.rglob("*.parquet")}
    state = run([str(videos)], str(lake), config=FAST)
    assert (state.n_videos_before, state.n_chunks, state.n_chunks_done) == (22, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in lake.rglob("*.parquet")} == before


def test_new_files_get_new_shards_and_old_ones_stay(numbered: Path, tmp_path: Path) -> None:
    folder, lake = tmp_path / "videos", tmp_path / "lake"
    folder.mkdir()
    shutil.copy(numbered / "h264.mp4", folder / "b.mp4")
    run([str(folder)], str(lake), config=ALONE)
    first = rows(lake, "segments")
    shutil.copy(numbered / "hevc.mp4", folder / "a.mp4")
    state = run([str(folder)], str(lake), config=ALONE)
    assert (state.n_videos, state.n_videos_before) == (2, 1)
    shards = {row["uri"].rsplit("/", 1)[1]: row["shard"] for row in open_lake(str(lake)).table("videos").to_pylist()}
    assert shards == {"b.mp4": 0, "a.mp4": 1}
    assert rows(lake, "segments").slice(0, len(first)).equals(first)


def test_a_manifest_with_spans_and_a_missing_file(numbered: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        f"uri,start_s,end_s\n{numbered}/h264.mp4,0.5,1.5\n{numbered}/h264.mp4,1.5,2\n{tmp_path}/gone.mp4,,\n"
    )
    run([str(manifest)], str(tmp_path / "lake"), config=ALONE)
    lake = open_lake(str(tmp_path / "lake"))
    videos = sorted(
        (row["uri"].rsplit("/", 1)[1], row["status"], row["covered_s"]) for row in lake.table("videos").to_pylist()
    )
    assert videos == [
        ("gone.mp4", "failed", 0.0),
        ("h264.mp4", "ok", pytest.approx(0.4)),
        ("h264.mp4", "ok", pytest.approx(1.0)),
    ]
    assert lake.table("failures")["kind"].to_pylist() == ["missing"]
    spans = {(row["start_s"], row["end_s"]) for row in lake.table("segments").to_pylist()}
    assert min(start for start, _ in spans) >= 0.5


def processes_of(name: str) -> list[psutil.Process]:
    """Return the processes below this one that have a name in their command line."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


def forked() -> list[psutil.Process]:
    """Return the local workers of this process."""
    return psutil.Process(fork_server().pid).children()


@pytest.mark.parametrize(
    ("engine", "workers", "helpers"),
    [("local", forked, forked), ("ray", partial(processes_of, "MapWorker"), partial(processes_of, "Ledger"))],
)
def test_a_worker_that_is_killed_costs_nothing(
    engine: str, workers: Processes, helpers: Processes, videos: Path, undisturbed: Path, local_ray: None,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Kills a worker at the first receipt; its chunks are done again, each row is there once."""
    killed: list[int] = []

    def kill_one(state: JobState) -> None:
        if state.n_chunks_done and not killed:
            # The last of the local ones commits.
            victim = workers()[0]
            killed.append(victim.pid)
            victim.send_signal(signal.SIGKILL)

    state = analyze([str(videos)], str(tmp_path / "lake"), config=FAST, observer=kill_one, engine=engine)
    assert len(killed) == 1
    assert (state.n_videos_done, state.n_failed, state.n_partial) == (22, 3, 2)
    assert_same(tmp_path / "lake", undisturbed)
    assert psutil.wait_procs(helpers(), timeout=60)[1] == [], "who works for a job ends with it"


@pytest.mark.parametrize(("first", "second"), [("local", "ray"), pytest.param("ray", "local", marks=pytest.mark.long)])
def test_one_engine_takes_up_what_another_left(
    first: str, second: str, videos: Path, undisturbed: Path, local_ray: None, tmp_path: Path
) -> None:
    """Half of it by one, the rest by the other, down to the chunks of a shard that was begun."""
    lake = str(tmp_path / "lake")

    def stop(state: JobState) -> None:
        if state.n_chunks_done > state.n_chunks // 2:
            raise Interrupted(signal.SIGINT, "")

    with pytest.raises(Interrupted):
        analyze([str(videos)], lake, config=FAST, observer=stop, engine=first)
    state = analyze([str(videos)], lake, config=FAST, engine=second)
    assert state.n_chunks_before > 0
    assert_same(tmp_path / "lake", undisturbed)


def test_an_engine_that_does_not_fit_is_refused(numbered: Path, tmp_path: Path) -> None:
    refuse = partial(analyze, str(numbered / "h264.mp4"), str(tmp_path / "lake"), config=FAST)
    with pytest.raises(UsageError, match="engine = 'spark' is not one of auto, local, ray"):
        refuse(engine="spark")
    with pytest.raises(UsageError, match=r"runs on this machine, not on the cluster at 10\.0\.0\.1:6379"):
        refuse(engine="local", address="10.0.0.1:6379")
    for options, told in (
        ({"layout": "split"}, "layout = 'split' needs --engine ray"),
        ({"device": "cuda"}, "this machine has no NVIDIA GPU"),
        ({"precision": "f16"}, "precision = 'f16' needs a GPU"),
    ):
        with pytest.raises(UsageError, match=told):
            refuse(engine="local", config=replace(FAST, **options))


def test_chunks_over_their_deadline_are_given_up_with_a_row(tmp_path: Path) -> None:
    """A deadline that nothing can meet: the worker ends itself, and after two attempts the chunk is let go."""
    folder = tmp_path / "videos"
    folder.mkdir()
    # Takes many times as long to decode as the deadline allows.
    make_slow_video(folder / "slow.mp4")
    config = Config(
        scope="frame",
        deadline_base_s=1.0,
        deadline_per_s=0.0,
        max_attempts=2,
        workers=1,
    )
    state = run([str(folder)], str(tmp_path / "lake"), config=config)
    assert state.n_failed == 1
    failures = open_lake(str(tmp_path / "lake")).table("failures").to_pylist()
    assert [(failure["kind"], failure["attempts"]) for failure in failures] == [("deadline", 2)] * 2, "each chunk"
    assert all("passed its deadline of 1 s" in failure["message"] for failure in failures)


def test_what_cannot_work_is_refused_before_anything_is_written(numbered: Path, tmp_path: Path) -> None:
    source, lake = str(numbered / "h264.mp4"), str(tmp_path / "lake")
    with pytest.raises(UsageError, match="has no label 'flying'; it knows brush_hair"):
        run(source, lake, config=Config(scope="frame", labels=("flying",)))
    with pytest.raises(UsageError, match="not a model bundle"):
        run(source, lake, model=tmp_path)
    with pytest.raises(UsageError, match="reads embeddings of 'efficientnet_lite0', but embedder = 'resnet50'"):
        run(source, lake, config=Config(scope="frame", embedder="resnet50"))
    assert not Path(lake).exists()
    run(source, lake, config=ALONE)
    with pytest.raises(UsageError, match=r"sample_fps = 5\.0 there, 2\.0 now"):
        run(source, lake, config=Config(scope="frame", sample_fps=2.0))
    with pytest.raises(UsageError, match="no such file or folder"):
        run(str(tmp_path / "nowhere"), lake, config=FAST)
    with pytest.raises(UsageError, match="committed by jhmdb21-frame, not by model 'other'"):
        run(source, lake, model=replace(load_bundle("jhmdb21-frame"), name="other"), config=FAST)


def test_segments_of_other_weights_or_limits_are_told_of(
    numbered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever goes on with a lake after an update, or with other options, has segments of both kinds in it."""
    source, lake, bundle = str(numbered / "h264.mp4"), tmp_path / "lake", load_bundle("jhmdb21-frame")
    told = "labelled by another version of model 'jhmdb21-frame', or with other limits"
    run(source, str(lake), config=ALONE)
    run(source, str(lake), config=ALONE)
    assert told not in caplog.text
    for other in (replace(bundle, sha256="0" * 64), replace(bundle, segments=replace(bundle.segments, threshold=0.5))):
        caplog.clear()
        run(source, str(lake), model=other, config=ALONE)
        assert told in caplog.text
    # A damaged part is for `actionlake verify`.
    next((lake / "segments").rglob("*.parquet")).write_bytes(b"")
    caplog.clear()
    run(source, str(lake), model=other, config=ALONE)
    assert told not in caplog.text


def test_a_mistake_leaves_no_lake_behind_that_refuses_the_next_try(numbered: Path, tmp_path: Path) -> None:
    source, lake = str(numbered / "h264.mp4"), str(tmp_path / "lake")
    with pytest.raises(UsageError, match=r"/nowhere/yolo\.pt'?: no such file"):
        run(source, lake, config=Config(scope="person", detector="/nowhere/yolo.pt"))
    assert run(source, lake, config=ALONE).n_videos_done == 1


def test_what_was_decoded_before_a_chunk_is_given_up_is_kept(numbered: Path, tmp_path: Path) -> None:
    """Two pieces lie there from an attempt that died; the chunk ends after them, with its failure."""
    from pipeline.archive.plan import plan_video
    from pipeline.archive.probe import probe_video
    from pipeline.archive.sources import list_videos
    from pipeline.engine.ledger import Attempt, give_up
    from pipeline.lake.plans import write_plan
    from pipeline.lake.store import Lake
    from pipeline.steps.commit import ShardCommitter
    from pipeline.steps.decode import decode_pieces, tasks_of
    from pipeline.steps.extract import Extractor, NetworkFacts

    config = Config(scope="frame", sample_fps=30.0, chunk_s=86_400.0)
    lake = Lake(str(tmp_path / "lake"))
    lake.claim(config.feature_options())
    ref = list_videos([str(numbered / "h264.mp4")])[0]
    planned = plan_video(ref, probe_video(ref), config.grid_rate, config.chunk_s)
    write_plan(lake, 0, [planned])
    (task,) = tasks_of(0, planned)
    extractor = Extractor(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.steps.decode._MOST_PIECE_FRAMES", 16)
        for piece in itertools.islice(decode_pieces(task, config), 2):
            extractor.extract(lake, [piece])
    receipts = give_up(lake, task, Attempt(4, "worker_died", "its worker died each time"), {"embedding": 1280})
    assert [(receipt.piece, receipt.last) for receipt in receipts] == [(0, False), (1, False), (2, True)]
    ShardCommitter(config, choose_models("default", "frame")).commit(lake, 0, NetworkFacts(1280, {}))
    reader = open_lake(lake.uri)
    (video,) = reader.table("videos").to_pylist()
    assert (video["status"], video["n_frames_sampled"], video["covered_s"]) == ("partial", 32, pytest.approx(32 / 30))
    assert reader.table("failures")["kind"].to_pylist() == ["worker_died"]
    assert sum(row["end_s"] - row["start_s"] for row in reader.table("segments").to_pylist()) == pytest.approx(32 / 30)


def test_exactly_one_row_per_video_and_frame(undisturbed: Path) -> None:
    lake = open_lake(str(undisturbed))
    assert max(Counter(lake.table("videos")["video_id"].to_pylist()).values()) == 1
    frames = lake.table("features", ["video_id", "step"]).to_pylist()
    assert max(Counter((row["video_id"], row["step"]) for row in frames).values()) == 1


def test_the_end_of_a_job_says_how_much_is_unlike_what_the_model_knows(numbered: Path, tmp_path: Path) -> None:
    bundle = load_bundle("jhmdb21-frame")
    for lowest, line in ((-200.0, "100 % of the labelled time is unlike"), (100.0, "")):
        knowing = replace(bundle, spec=replace(bundle.spec, energies=(lowest, lowest + 1)))
        state = run([str(numbered / "h264.mp4")], str(tmp_path / f"lake{lowest}"), knowing, ALONE)
        assert state.judged_s == pytest.approx(state.covered_s, abs=0.2)
        assert state.unlike_s == (state.judged_s if line else 0.0)
        printed = StringIO()
        closing_table(Console(file=printed, width=200), state)
        assert ("unlike" in printed.getvalue()) == bool(line)
        assert line in printed.getvalue()
