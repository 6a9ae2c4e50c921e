"""What nobody foresaw costs a chunk, or a video its labels, and never the job; unless it is not the videos."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline.activity.classifier import SequenceClassifier
from pipeline.config import Config
from pipeline.engine.models import choose_models
from pipeline.lake.query import open_lake
from pipeline.lake.sequences import VideoRows
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from pipeline.lake.work import Receipt, finished_chunks, lost_pieces, piece_name
from pipeline.steps import commit, decode, extract, plan
from pipeline.steps.breaker import Breaker, SystematicError
from pipeline.steps.extract import Extractor
from pipeline.steps.label import Labeller
from pipeline.vision import views
from pipeline.vision.detector import Detector
from pipeline.vision.embedder import Embedder
from tests.lakes import TABLES, analyze_here, rows
from tests.synthetic import RECIPES, make_video

# The clip of people has three chunks, the second of them with these steps.
CONFIG = Config(scope="both", sample_fps=4.0, chunk_s=2.0, max_people=3, inputs=("frame", "frame_change", "frame_flow",
    "crop", "crop_change", "crop_flow", "box"))  # fmt: skip
FIRST_STEP, END_STEP = 10, 18


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(CONFIG)


@pytest.fixture(scope="module")
def archive(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of people, and one of none."""
    folder = tmp_path_factory.mktemp("unforeseen")
    make_video(folder / "a.mp4", RECIPES[0])
    shutil.copy(street, folder / "people.mp4")
    return folder


@pytest.fixture(scope="module")
def quiet(archive: Path, extractor: Extractor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a run without faults."""
    lake = tmp_path_factory.mktemp("quiet") / "lake"
    summary = analyze_here([str(archive)], lake, CONFIG, choose_models("default", "both"), extractor)
    assert (summary.n_failed, summary.n_partial) == (0, 0)
    assert sorted(rows(lake, "videos")["n_chunks"].to_pylist()) == [1, 3]
    return lake


def failing(function: Callable[..., Any], on: Callable[..., bool]) -> Callable[..., Any]:
    """Return a function that fails on some of its calls, after what it yields first if it is a generator."""

    def call(*arguments: Any, **named: Any) -> Any:
        if on(*arguments):
            raise KeyError("an injected fault")
        return function(*arguments, **named)

    return call


def on_call(number: int) -> Callable[..., bool]:
    calls = iter(range(1, 1_000_000))
    return lambda *_: next(calls) == number


def failing_decode(*arguments: Any, **named: Any) -> Iterator[Any]:
    """Decode, but for the second chunk of the people, which fails before its first batch."""
    if arguments[0].endswith("people.mp4") and arguments[2].index == 1:
        raise KeyError("an injected fault")
    yield from _decode_chunk(*arguments, **named)


_decode_chunk = decode.decode_chunk

# Calls come in the order of the plan: the video without people, then the three chunks of the other.
OF_CHUNKS = {
    "decode": lambda patch: patch.setattr(decode, "decode_chunk", failing_decode),
    "detect": lambda patch: patch.setattr(Detector, "look", failing(Detector.look, on_call(3))),
    "embed": lambda patch: patch.setattr(Embedder, "embed", failing(Embedder.embed, on_call(3))),
    "flow": lambda patch: patch.setattr(views, "describe_flow", failing(views.describe_flow, on_call(5))),
    "write": lambda patch: patch.setattr(extract, "write_piece", failing(extract.write_piece, on_call(3))),
}


def of_video(lake: Path, table: str, name: str) -> Any:
    (video_id,) = (row["video_id"] for row in rows(lake, "videos").to_pylist() if row["uri"].endswith(name))
    found = rows(lake, table)
    return found.filter(pc.equal(found["video_id"], video_id))


@pytest.mark.parametrize("name", OF_CHUNKS)
def test_a_fault_in_a_chunk_costs_that_chunk(
    name: str, archive: Path, quiet: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OF_CHUNKS[name](monkeypatch)
    lake = tmp_path / "lake"
    summary = analyze_here([str(archive)], lake, CONFIG, choose_models("default", "both"), extractor)
    assert (summary.n_videos, summary.n_failed, summary.n_partial) == (2, 0, 1)
    (failure,) = open_lake(str(lake)).table("failures").to_pylist()
    assert (failure["stage"], failure["kind"], failure["attempts"]) == (name, "internal", 1)
    assert (failure["start_s"], failure["end_s"]) == (FIRST_STEP / 4, END_STEP / 4)
    assert failure["uri"].endswith("people.mp4")
    assert f"people.mp4: {name} failed, a fault of the program: KeyError: 'an injected fault' (" in failure["message"]
    for table in TABLES:
        assert of_video(lake, table, "a.mp4").equals(of_video(quiet, table, "a.mp4")), table
    for table, step in (("features", "step"), ("detections", "frame_index")):
        kept, whole = (of_video(where, table, "people.mp4").drop_columns("track_id") for where in (lake, quiet))
        others = pc.or_(pc.less(whole[step], FIRST_STEP), pc.greater_equal(whole[step], END_STEP))
        assert kept.equals(whole.filter(others)), f"what was seen of the other chunks is kept: {table}"
    assert verify(Lake(str(lake))) == []


@pytest.mark.parametrize("name", ["track", "label"])
def test_a_fault_in_tracking_or_labelling_costs_no_boxes(
    name: str, archive: Path, quiet: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "track":
        crowded = lambda video_rows: len(video_rows.boxes.score) > 20  # noqa: E731
        monkeypatch.setattr(VideoRows, "frames_of_boxes", failing(VideoRows.frames_of_boxes, crowded))
    else:
        of_people = lambda labeller, _, uri, *__: uri.endswith("people.mp4") and labeller.bundle.scope == "person"  # noqa: E731
        monkeypatch.setattr(Labeller, "label", failing(Labeller.label, of_people))
    lake = tmp_path / "lake"
    summary = analyze_here([str(archive)], lake, CONFIG, choose_models("default", "both"), extractor)
    assert (summary.n_failed, summary.n_partial) == (0, 1)
    (failure,) = open_lake(str(lake)).table("failures").to_pylist()
    assert (failure["stage"], failure["kind"]) == (name, "internal")
    for table in TABLES:
        assert of_video(lake, table, "a.mp4").equals(of_video(quiet, table, "a.mp4")), table
    for table in ("features", "detections"):
        kept, whole = (of_video(where, table, "people.mp4").drop_columns("track_id") for where in (lake, quiet))
        assert kept.equals(whole)
    segments, whole = (of_video(where, "segments", "people.mp4").to_pylist() for where in (lake, quiet))
    assert {row["scope"] for row in whole} == {"frame", "person"}
    assert segments == [row for row in whole if row["scope"] == "frame"], "the other model labels it all the same"
    assert verify(Lake(str(lake))) == []


def test_a_video_whose_rows_cannot_be_written_leaves_those_that_say_so(
    archive: Path, quiet: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its rows are in the tables by then: these are begun anew."""
    is_of_people = lambda video, *_: video.ref.uri.endswith("people.mp4")  # noqa: E731
    monkeypatch.setattr(commit, "feature_rows", failing(commit.feature_rows, is_of_people))
    lake = tmp_path / "lake"
    summary = analyze_here([str(archive)], lake, CONFIG, choose_models("default", "both"), extractor)
    assert (summary.n_videos, summary.n_failed) == (2, 1)
    (failure,) = open_lake(str(lake)).table("failures").to_pylist()
    assert (failure["stage"], failure["kind"]) == ("write", "internal")
    for table in TABLES:
        assert of_video(lake, table, "a.mp4").equals(of_video(quiet, table, "a.mp4")), table
    for table in ("features", "detections", "segments"):
        assert len(of_video(lake, table, "people.mp4")) == 0
    assert of_video(lake, "videos", "people.mp4")["status"].to_pylist() == ["failed"]
    assert verify(Lake(str(lake))) == []


def test_of_pieces_computed_together_only_the_one_to_blame_is_lost(
    archive: Path, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which computes the pieces of several chunks in one batch."""
    from pipeline.archive.plan import plan_video
    from pipeline.archive.probe import probe_video
    from pipeline.archive.sources import list_videos

    (ref,) = list_videos([str(archive / "people.mp4")])
    tasks = decode.tasks_of(0, plan_video(ref, probe_video(ref), CONFIG.grid_rate, CONFIG.chunk_s))
    pieces = [piece for task in tasks for piece in decode.decode_pieces(task, CONFIG)]
    blamed = pieces[1].frames.images
    monkeypatch.setattr(Detector, "look", failing(Detector.look, lambda _, images: images is blamed))
    lake = Lake(str(tmp_path / "lake"))
    lake.claim(CONFIG.feature_options())
    receipts = extractor.extract(lake, pieces)
    assert [receipt.is_lost for receipt in receipts] == [False, True, False]
    assert [receipt.n_frames for receipt in receipts] == [10, 0, 6]
    names = lake.work_names(0)
    assert lost_pieces(names) == [f"{ref.video_id}-c00001-p00000-last-lost.arrow"]
    assert len(finished_chunks(names)) == 3, "within one run it is not tried again"


def test_a_piece_that_was_lost_and_then_made_counts_as_made() -> None:
    receipt = Receipt(0, "0" * 16, 0, 0, True)
    lost = Receipt(0, "0" * 16, 0, 0, True, failure_kind="internal")
    for names in ([piece_name(receipt), piece_name(lost)], [piece_name(lost), piece_name(receipt)]):
        assert finished_chunks(names) == {receipt.key: [piece_name(receipt)]}
    ended_early = [piece_name(lost), *(piece_name(Receipt(0, "0" * 16, 0, n, n == 1)) for n in range(2))]
    assert len(finished_chunks(ended_early)[receipt.key]) == 2


def test_a_fault_in_probing_costs_that_file(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.archive.sources import list_videos

    (ref,) = list_videos([str(numbered / "h264.mp4")])
    monkeypatch.setattr(plan, "probe_video", failing(plan.probe_video, lambda *_: True))
    found = plan.probe_patiently(ref, CONFIG)
    assert found.kind == "internal"
    assert "h264.mp4: probe failed, a fault of the program: KeyError" in str(found)
    with pytest.raises(SystematicError, match="20 of 20 files failed with unexpected errors"):
        list(plan._unless_systematic(iter([(ref, found)] * 30)))


def test_when_it_is_not_the_videos() -> None:
    breaker = Breaker("chunks")
    for _ in range(19):
        breaker.count("x")
    with pytest.raises(SystematicError, match=r"20 of 20 chunks failed .* the last: why"):
        breaker.count("why")
    breaker = Breaker("chunks")
    breaker.count()
    for number in range(198):
        breaker.count("x" if number % 2 else "")
    breaker.count("x")
    with pytest.raises(SystematicError, match="101 of 201 chunks failed"):
        breaker.count("x")


def test_a_model_that_labels_nothing_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(20):
        make_video(folder / f"{number}.mp4", RECIPES[0], n_frames=5, size=(160 + 2 * number, 96))
    config = Config(scope="frame", sample_fps=5.0)
    monkeypatch.setattr(SequenceClassifier, "logits", failing(SequenceClassifier.logits, lambda *_: True))
    models, extractor = choose_models("default", "frame"), Extractor(config)
    with pytest.raises(SystematicError, match="20 of 20 labelled videos failed"):
        analyze_here([str(folder)], tmp_path / "lake", config, models, extractor)
    lake = Lake(str(tmp_path / "lake"))
    assert lake.committed() == []
    assert len(finished_chunks(lake.work_names(0))) == 20, "what was extracted is kept for the next run"
