"""Label a lake anew from its features alone."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.cli.tables import labelled_table
from pipeline.config import Config
from pipeline.engine.models import choose_models
from pipeline.engine.relabel import classify
from pipeline.errors import UsageError
from pipeline.lake import store
from pipeline.lake.query import open_lake
from pipeline.steps.extract import Extractor
from tests.lakes import analyze_here, assert_same, rows

PERSON = "daily22-person"


def knowing(bundle: Bundle, *energies: float) -> Bundle:
    """Return a bundle that knows what is new to it."""
    return replace(bundle, spec=replace(bundle.spec, energies=energies))


BUNDLE = knowing(load_bundle(PERSON), -6.0, -5.6, -5.5, -5.45, -5.4)


@pytest.fixture(scope="module")
def labelled(street: Path, person_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of people and frames, whose video is gone and whose features lie in small row groups."""
    folder = tmp_path_factory.mktemp("labelled")
    video = shutil.copy(street, folder / "street.mp4")
    config = Config(scope="both", detector=str(person_weights), sample_fps=15.0, min_track_s=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_ROW_GROUP_ROWS", 100)
        models = [BUNDLE if model.name == PERSON else model for model in choose_models("default", "both")]
        summary = analyze_here([str(video)], folder / "lake", config, models, Extractor(config))
    assert 0 < summary.unlike_s < summary.judged_s, "the last of its models knows"
    os.unlink(video)
    return folder / "lake"


@pytest.fixture
def lake(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "lake"))


def test_the_same_model_finds_the_same_segments_without_the_video(labelled: Path, lake: Path) -> None:
    """No decoder can run, as there is no file; and tracks lie across row groups."""
    shutil.rmtree(lake / "segments" / f"model={PERSON}")
    state = classify(str(lake), BUNDLE, min_track_s=1.0)
    assert (state.n_done, state.n_videos) == (1, 1)
    assert sum(state.label_n.values()) > 3
    assert 0 < state.unlike_s < state.judged_s
    found = open_lake(str(lake)).sql(f"SELECT DISTINCT novelty FROM segments WHERE model = '{PERSON}'")
    assert found.num_rows > 3
    assert_same(labelled, lake)


def test_segments_of_a_high_novelty_can_be_left_out(lake: Path) -> None:
    """The limit drops exactly what a query with the same limit leaves out, and the others keep their ids."""
    found = {}
    for limit in (1.0, 0.55):
        name = f"until-{limit:g}"
        classify(str(lake), replace(BUNDLE, name=name), min_track_s=1.0, most_novel=limit)
        rows_of = f"SELECT segment_id, label, score, novelty FROM segments WHERE model = '{name}' ORDER BY segment_id"
        found[limit] = open_lake(str(lake)).sql(rows_of).to_pylist()
    assert 0 < len(found[0.55]) < len(found[1.0])
    assert found[0.55] == [row for row in found[1.0] if row["novelty"] <= 0.55]


def test_a_limit_of_novelty_needs_a_model_that_knows_it(lake: Path) -> None:
    with pytest.raises(UsageError, match="does not know how novel a segment is; leave most_novel out"):
        classify(str(lake), PERSON, most_novel=0.9)
    with pytest.raises(UsageError, match="most_novel = 90: novelties lie between 0 and 1"):
        classify(str(lake), BUNDLE, most_novel=90)
    assert BUNDLE.limited(1.0).options_digest == BUNDLE.options_digest, "what was labelled before needs no labelling"


def test_on_ray_the_segments_are_the_same(labelled: Path, lake: Path, local_ray: None) -> None:
    shutil.rmtree(lake / "segments" / f"model={PERSON}")
    assert classify(str(lake), BUNDLE, min_track_s=1.0).n_videos == 1
    assert_same(labelled, lake)


def test_models_stand_side_by_side(labelled: Path, lake: Path) -> None:
    other = replace(load_bundle(PERSON), name="other")
    classify(str(lake), other, labels=("walk",))
    models = set(rows(lake, "segments")["model"].to_pylist())
    assert models == {PERSON, "jhmdb21-frame", "other"}
    counted = open_lake(str(lake)).sql("SELECT label, count(*) AS n FROM segments WHERE model = 'other' GROUP BY label")
    assert counted["label"].to_pylist() == ["walk"]
    before = rows(labelled, "segments").num_rows
    assert rows(lake, "segments").num_rows == before + counted["n"].to_pylist()[0]


def test_what_these_weights_have_labelled_is_left_alone(lake: Path) -> None:
    part = lake / "segments" / f"model={PERSON}" / "part-00000.parquet"
    before = part.stat().st_mtime_ns
    assert classify(str(lake), BUNDLE).n_videos == 0
    assert part.stat().st_mtime_ns == before
    changed = (
        replace(BUNDLE, sha256="0" * 64),
        BUNDLE,
        replace(BUNDLE, segments=replace(BUNDLE.segments, threshold=0.5)),
    )
    for other in changed:
        assert classify(str(lake), other).n_videos == 1, "other weights, or other options of the same"
        assert classify(str(lake), other).n_videos == 0
    assert part.stat().st_mtime_ns != before


def test_segments_of_an_earlier_version_which_noted_no_options_are_left_alone(lake: Path) -> None:
    part = lake / "segments" / f"model={PERSON}" / "part-00000.parquet"
    table = pq.read_table(part, partitioning=None)
    footer = json.loads(table.schema.metadata[b"actionlake"])
    del footer["model_options"]
    pq.write_table(table.replace_schema_metadata({"actionlake": json.dumps(footer)}), part)
    assert classify(str(lake), load_bundle(PERSON)).n_videos == 0


def test_features_that_the_model_can_not_read_are_refused(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reads embeddings of 'resnet50'"):
        classify(str(lake), replace(load_bundle(PERSON), embedder="resnet50"))
    with pytest.raises(UsageError, match="no lake there"):
        classify(str(tmp_path / "nowhere"), PERSON)
    shutil.rmtree(lake / "features")
    with pytest.raises(UsageError, match="features were not kept"):
        classify(str(lake), replace(load_bundle(PERSON), name="other"))


@pytest.mark.parametrize(("energies", "novelty"), [((-200.0, -100.0), 1.0), ((100.0, 200.0), 0.0), ((), None)])
def test_how_new_it_is_stands_beside_each_segment(
    lake: Path, energies: tuple[float, ...], novelty: float | None
) -> None:
    """All of what was learnt is more familiar, or nothing of it, or it is not known."""
    state = classify(str(lake), replace(knowing(BUNDLE, *energies), name="other"))
    found = open_lake(str(lake)).sql("SELECT novelty FROM segments WHERE model = 'other'")["novelty"].to_pylist()
    assert len(found) > 3
    assert set(found) == {novelty}
    assert (state.judged_s > 20) == (novelty is not None)
    assert state.unlike_s == (state.judged_s if novelty == 1.0 else 0.0)
    printed = StringIO()
    labelled_table(Console(file=printed, width=200), state)
    assert ("100 % of the labelled time is unlike" in printed.getvalue()) == (novelty == 1.0)


def test_segments_of_an_earlier_version_are_read_beside_new_ones(lake: Path) -> None:
    part = lake / "segments" / f"model={PERSON}" / "part-00000.parquet"
    pq.write_table(pq.read_table(part, partitioning=None).drop_columns(["novelty"]), part)
    classify(str(lake), replace(knowing(BUNDLE, -2.0, -1.0), name="other"))
    reader = open_lake(str(lake))
    found = reader.sql("SELECT model, count(novelty) > 0 AS known FROM segments GROUP BY model")
    assert dict(zip(*found.to_pydict().values(), strict=True)) == {PERSON: False, "jhmdb21-frame": False, "other": True}
    table = reader.table("segments", ["model", "novelty"])
    assert {row["model"]: row["novelty"] is not None for row in table.to_pylist()} == dict(
        zip(*found.to_pydict().values(), strict=True)
    ), "the first of the parts has no such column"
