"""Search by texts: what is found is what the features and the text tower give, computed by hand."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.config import Config
from pipeline.errors import UsageError
from pipeline.lake import search_index
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.search import Hit, search_texts
from pipeline.lake.stretches import cut, steps_per_second
from pipeline.steps.extract import Extractor
from tests import made_up
from tests.lakes import analyze_here
from tests.networks import untrained_clip, untrained_vit

TEXTS = ["a person climbing a fence", "an empty street at night"]
FPS = 5.0


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module", params=[("person", ("crop",)), ("both", ("frame", "crop"))], ids=["person", "both"])
def made_once(
    request: pytest.FixtureRequest, clip: str, street: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A lake of a street, in two shards of one video each."""
    scope, inputs = request.param
    folder = tmp_path_factory.mktemp("texts")
    config = Config(scope=scope, inputs=inputs, embedder=clip, sample_fps=FPS, precision="f32", device="cpu")
    extractor = Extractor(config)
    for number in range(2):
        video = shutil.copy(street, folder / f"street{number}.mp4")
        analyze_here([str(video)], folder / "lake", config, [], extractor, shard=number)
    return folder / "lake"


@pytest.fixture
def lake(made_once: Path, tmp_path: Path) -> LakeReader:
    return open_lake(str(shutil.copytree(made_once, tmp_path / "lake")))


def text_vectors(clip: str) -> np.ndarray:
    model = open_clip.create_model(f"local-dir:{clip}").eval()
    with torch.inference_mode():
        vectors = model.encode_text(open_clip.tokenize(TEXTS)).numpy().astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


Place = tuple[str, int | None, float, float]


def by_hand(lake: LakeReader) -> list[tuple[float, str, Place]]:
    """Return the cosine of every stretch to its nearest text, from the rows of `features`."""
    texts = text_vectors(lake.feature_options["embedder"])
    durations = {row["video_id"]: row["duration_s"] for row in lake.table("videos").to_pylist()}
    of_track: dict[tuple[str, int | None], list[dict[str, Any]]] = defaultdict(list)
    for path in Path(lake.store.root, "features").iterdir():
        for row in pq.read_table(path).to_pylist():
            followed = row["scope"] == "person" and row["track_id"] is not None
            if followed or (row["scope"] == "frame" and lake.feature_options["scope"] == "both"):
                of_track[row["video_id"], row["track_id"]].append(row)
    scored = []
    for (video_id, track_id), views in of_track.items():
        views.sort(key=lambda row: row["step"])
        first, last = views[0]["step"], views[-1]["step"] + views[-1]["n_steps"]
        # A glimpse of somebody is no stretch.
        spans = cut(last - first, steps_per_second(lake.feature_options)) if last - first >= 0.5 * FPS else ()
        for start, end in spans:
            total = np.zeros(texts.shape[1])
            for step in range(first + start, first + end):
                # Who is out of sight looks as when last seen.
                vector = np.array([row for row in views if row["step"] <= step][-1]["embedding"], np.float64)
                total += vector / np.linalg.norm(vector)
            cosines = texts @ (total / np.linalg.norm(total))
            place = (video_id, track_id, (first + start) / FPS, min((first + end) / FPS, durations[video_id]))
            scored.append((float(cosines.max()), TEXTS[int(cosines.argmax())], place))
    return scored


def apart(scored: list[tuple[float, str, Place]]) -> list[tuple[float, str, Place]]:
    """Return the best of those of one track that overlap, the best first."""
    kept: list[tuple[float, str, Place]] = []
    for likeness, text, place in sorted(scored, key=lambda each: -each[0]):
        if not any(place[:2] == k[:2] and place[2] < k[3] - 1e-6 and place[3] > k[2] + 1e-6 for _, _, k in kept):
            kept.append((likeness, text, place))
    return kept


def assert_found_by_hand(lake: LakeReader) -> list[Hit]:
    scored = by_hand(lake)
    expected = apart(scored)
    assert len(expected) > 10
    hits = search_texts(lake, TEXTS, len(expected))
    # The features were half floats already; the index rounds once more.
    assert [hit.likeness for hit in hits] == pytest.approx([likeness for likeness, _, _ in expected], abs=3e-4)
    by_place = {place: (likeness, text) for likeness, text, place in scored}
    for hit in hits:
        likeness, text = by_place[hit.video_id, hit.track_id, hit.start_s, hit.end_s]
        assert (hit.likeness, hit.like) == (pytest.approx(likeness, abs=3e-4), text)
    return hits


def test_what_is_found_is_what_the_features_give(lake: LakeReader) -> None:
    hits = assert_found_by_hand(lake)
    kinds = {hit.track_id is None for hit in hits}
    assert kinds == ({True, False} if lake.feature_options["scope"] == "both" else {False})


def test_each_text_finds_what_is_like_it(tmp_path: Path) -> None:
    """Of people of whom no two look alike, which those that a network with random weights sees do."""
    config = replace(made_up.CONFIG, embedder=untrained_clip(tmp_path / "clip", dim=16))
    hits = assert_found_by_hand(open_lake(made_up.made(tmp_path / "lake", config=config).uri))
    assert {hit.like for hit in hits} == set(TEXTS)


def run(lake: LakeReader, *arguments: str | Path) -> Result:
    command = ["search", "--lake", lake.store.root, *map(str, arguments)]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def test_the_command(lake: LakeReader) -> None:
    options = [*(f"--text={text}" for text in TEXTS), "--where", "uri LIKE '%street1%'", "--limit", "3"]
    expected = search_texts(lake, TEXTS, 3, "uri LIKE '%street1%'")
    answer = run(lake, *options, "--other-videos", "--format", "json")
    assert answer.exit_code == 0, answer.exception
    rows = json.loads(answer.stdout)
    assert [(row["video"], row["person"], row["start_s"], row["like"]) for row in rows] == [
        (hit.uri, hit.track_id, hit.start_s, hit.like) for hit in expected
    ]
    assert {Path(row["video"]).name for row in rows} == {"street1.mp4"}
    (best,) = search_texts(lake, TEXTS[:1], 1)
    assert f"{best.likeness:.3f}" in run(lake, "--text", TEXTS[0]).stdout
    for wrong, message in (
        ([], "by one of --like VIDEO@SECONDS, --examples FILE and --text WORDS"),
        (["--text", "a dog", "--like", "street0@1"], "by one of --like"),
        (["--text", "a dog", "--examples", "answers.csv"], "by one of --like"),
        (["--text", "a dog", "--person", "1"], "--person goes with --like"),
        (["--text", "a dog", "--limit", "0"], "limit 0"),
        (["--text", ""], "an empty text"),
    ):
        failed = run(lake, *wrong)
        assert isinstance(failed.exception, UsageError)
        assert message in str(failed.exception)


def test_a_report_shows_what_a_text_finds(lake: LakeReader, tmp_path: Path) -> None:
    assert run(lake, "--text", TEXTS[0], "--limit", "2", "--report", tmp_path / "report").exit_code == 0
    assert f"like {TEXTS[0]}" in (tmp_path / "report" / "index.html").read_text()
    assert len(list((tmp_path / "report" / "clips").glob("*.mp4"))) == 2


def test_the_index_is_used_again(lake: LakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = search_texts(lake, TEXTS, 5)
    kept = sorted(path.name for path in Path(lake.store.root, "_search", "person-looks").iterdir())
    assert kept == ["00000.arrow", "00001.arrow"]
    monkeypatch.setattr(search_index, "_make", None)
    assert search_texts(lake, TEXTS, 5) == expected


def test_a_lake_without_a_text_tower(tmp_path: Path) -> None:
    """Of a detector's maps, of a network that only sees, and of what a text can't be compared with."""
    vit, clip = untrained_vit(tmp_path / "vit"), untrained_clip(tmp_path / "clip")
    for embedder, inputs, message in (
        ("detector", ("crop", "box"), r"made with embedder = 'detector', which reads no texts; .* open_clip:"),
        (vit, ("crop", "box"), r"vit', which reads no texts"),
        (clip, ("box", "pose"), r"its features hold box, pose, none of which .*; make another lake with"),
    ):  # fmt: skip
        config = replace(made_up.CONFIG, embedder=embedder, inputs=inputs)
        made = made_up.made(tmp_path / f"lake-{Path(embedder).name}", config=config)
        with pytest.raises(UsageError, match=message):
            search_texts(open_lake(made.uri), ["a dog"])


def test_an_embedder_that_is_gone_or_another_one(tmp_path: Path) -> None:
    """The lake's vectors have 16 numbers, those of the model 32."""
    folder = tmp_path / "clip"
    config = replace(made_up.CONFIG, embedder=untrained_clip(folder))
    lake = open_lake(made_up.made(tmp_path / "lake", config=config).uri)
    with pytest.raises(UsageError, match=r"embedder = .*clip' gives vectors of 32 numbers, but its features have 16"):
        search_texts(lake, ["a dog"])
    folder.rename(tmp_path / "moved")
    with pytest.raises(
        UsageError,
        match=r"the embedder of its features is needed .*; embedder = .*clip': there is no such folder",
    ):
        search_texts(lake, ["a dog"])
    shutil.rmtree(Path(lake.store.root, "features"))
    untrained_clip(folder)
    with pytest.raises(UsageError, match=r"its features were not kept \(keep_features = false\)"):
        search_texts(lake, ["a dog"])
