"""Foretell the paths of the people of a lake: exact, resumable, from boxes alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import Config
from pipeline.engine.analyze import analyze
from pipeline.engine.forecast import ForecastState, forecast, foretell_shard
from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from pipeline.motion.forecaster_bundle import EMBEDDED_FORECASTERS, ForecasterBundle, load_forecaster
from pipeline.motion.forecasting import Forecaster, ForecasterSpec
from pipeline.motion.trajectories import Trajectory
from pipeline.steps import foretell as step
from pipeline.steps.extract import Extractor
from pipeline.steps.foretell import ForetellOptions
from tests.lakes import Walk, analyze_here, lake_of_walkers, rows

# Straight on, and 0.05 heights of a person off at each step, more or less.
SURE = -3.0


def untrained(name: str = "random", **options: object) -> ForecasterBundle:
    """A forecaster of random weights: it foretells nonsense, but the same nonsense to the last bit."""
    torch.manual_seed(0)
    spec = ForecasterSpec(**({"hidden_dim": 16, "n_paths": 3, "unit": "heights", "n_others": 2} | options))  # type: ignore[arg-type]
    return ForecasterBundle.of(name, Forecaster(spec), {}, {})


def straight_on(folder: Path) -> ForecasterBundle:
    """A forecaster of going straight on, read from a folder as in use."""
    model = Forecaster(ForecasterSpec("constant_velocity", unit="heights"))
    with torch.no_grad():
        model.members[0].spread.fill_(SURE)
        model.members[0].spread[:, 2] = 0.0
    ForecasterBundle.of("straight", model, {}, {}).save(folder / "straight")
    return load_forecaster(folder / "straight")


def walk(start_s: float, end_s: float, x: float, y: float, right: float = 50.0, down: float = 0.0) -> Walk:
    """Straight, so many pixels a second, ten views a second."""
    time_s = np.round(np.arange(round(start_s * 10), round(end_s * 10) + 1) / 10, 6)
    return time_s, np.column_stack([x + right * (time_s - start_s), y + down * (time_s - start_s)])


def turning(*walks: Walk) -> Walk:
    return np.concatenate([each[0] for each in walks]), np.concatenate([each[1] for each in walks])


def tell(lake: Path, model: ForecasterBundle, options: ForetellOptions | None = None) -> LakeReader:
    """Foretell in this process, and open the lake."""
    for shard in Lake(str(lake)).committed():
        foretell_shard(shard, str(lake), model, options or ForetellOptions(), None)
    return open_lake(str(lake))


@pytest.fixture
def walkers(tmp_path: Path) -> Path:
    turner = turning(walk(0, 5, 100, 200), walk(5.1, 11, 350, 205, right=0, down=50))
    return lake_of_walkers(
        tmp_path / "lake",
        [
            {"a1": {1: walk(0, 11, 0, 100), 2: turner}, "a2": {1: walk(2, 4.7, 0, 0)}},
            {"b1": {5: walk(1.03, 12, 500, 300, right=-30)}, "b2": {}},
        ],
    )


def test_rows_tell_where_feet_and_boxes_will_be(walkers: Path, tmp_path: Path) -> None:
    state = forecast(str(walkers), straight_on(tmp_path))
    # From 2.8 s on, each 0.4 s: eight steps are seen. Of 2.7 s nothing is foretold.
    assert (state.n_done, state.n_videos, state.n_forecasts) == (2, 4, 21 + 21 + 21)
    found = (
        open_lake(str(walkers))
        .sql("SELECT * FROM forecasts WHERE video_id = 'a1' AND track_id = 1 LIMIT 12")
        .to_pylist()
    )
    assert [row["horizon_s"] for row in found] == [0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0, 4.4, 4.8]
    for row in found:
        assert row["made_at_s"] == 2.8
        x = 50 * (2.8 + row["horizon_s"])
        assert (row["x"], row["y"]) == pytest.approx((x, 100), abs=0.01)
        assert (row["x1"], row["y1"], row["x2"], row["y2"]) == pytest.approx((x - 20, 0, x + 20, 100), abs=0.01)
        assert row["model"] == "straight"
        assert row["sx"] == pytest.approx(row["sy"])
    assert found[-1]["sx"] > found[0]["sx"] > 0
    # The lake was never planned, which is all that is wrong with it.
    assert not [problem for problem in verify(Lake(str(walkers))) if not problem.where.startswith("_plan")]


def test_what_nobody_expected_is_a_surprise(walkers: Path, tmp_path: Path) -> None:
    found = (
        tell(walkers, straight_on(tmp_path))
        .sql("SELECT * FROM surprises WHERE video_id = 'a1' ORDER BY start_s")
        .to_pylist()
    )
    straight = [row for row in found if row["track_id"] == 1]
    turned = {row["start_s"]: row for row in found if row["track_id"] == 2}
    assert max(row["deviation"] for row in straight) < 0.1
    assert turned[2.8]["deviation"] > 5
    assert turned[2.8]["log_likelihood"] < min(row["log_likelihood"] for row in straight) - 10
    # Once the turn is seen, the new way is no surprise any more.
    assert turned[6.0]["deviation"] < 0.1
    # What happens after the last view is not known: fewer steps, and none at the very end.
    assert [row["n_steps"] for row in straight][:6] == [12] * 6
    assert straight[-1]["start_s"] == 10.4


def test_the_density_of_a_surprise_is_that_of_the_gaussian_in_heights(walkers: Path, tmp_path: Path) -> None:
    lake = tell(walkers, straight_on(tmp_path), ForetellOptions(horizon_s=0.4))
    told = lake.sql("SELECT * FROM forecasts WHERE track_id = 2 AND made_at_s = 4.8").to_pylist()[0]
    (found,) = lake.sql("SELECT * FROM surprises WHERE track_id = 2 AND start_s = 4.8").to_pylist()
    # At 5.2 s the feet are at 350, 210; a height is 100 px.
    z = np.array([(350 - told["x"]) / told["sx"], (210 - told["y"]) / told["sy"]])
    density = np.exp(-(z @ z) / 2) / (2 * np.pi * told["sx"] * told["sy"] / 100**2)
    assert found["log_likelihood"] == pytest.approx(np.log(density), abs=0.01)
    assert found["deviation"] == pytest.approx(np.sqrt(z @ z / 2), rel=1e-3)


def test_what_was_foretold_before_is_left_and_what_is_missing_is_made(walkers: Path, tmp_path: Path) -> None:
    model = straight_on(tmp_path)
    tell(walkers, model)
    before = rows(walkers, "forecasts")
    parts = sorted((walkers / "forecasts" / "model=straight").iterdir())
    written = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    states: list[ForecastState] = []
    again = forecast(str(walkers), model, observer=states.append)
    assert (again.n_done, again.n_videos) == (2, 2)
    assert parts[0].stat().st_mtime_ns == written
    assert rows(walkers, "forecasts").equals(before)
    assert forecast(str(walkers), model).n_videos == 0
    # Other options, or other weights under the same name, are another forecast.
    tell(walkers, replace(model, sha256="other"))
    assert forecast(str(walkers), model, ForetellOptions(horizon_s=2.0)).n_videos == 4
    assert len(rows(walkers, "forecasts")) == 5 * len(before) // 12


def test_forecasts_of_two_models_lie_side_by_side(walkers: Path, tmp_path: Path) -> None:
    tell(walkers, straight_on(tmp_path))
    lake = tell(walkers, untrained(), ForetellOptions(every_s=0.8))
    found = lake.sql("SELECT model, count(*) FROM forecasts GROUP BY model ORDER BY model").to_pylist()
    assert [tuple(row.values()) for row in found] == [("random", 12 * 31), ("straight", 12 * 63)]
    assert lake.store.models() == []


@pytest.mark.e2e
def test_on_ray_the_rows_are_the_same(walkers: Path, tmp_path: Path, local_ray: None) -> None:
    other = lake_of_walkers(tmp_path / "other", [{"a1": {}, "a2": {}}, {"b1": {}, "b2": {}}])
    for shard in (0, 1):
        name = f"detections/part-{shard:05d}.parquet"
        (other / name).write_bytes((walkers / name).read_bytes())
    forecast(str(walkers), untrained())
    tell(other, untrained())
    assert rows(walkers, "forecasts").equals(rows(other, "forecasts"))


@pytest.mark.e2e
def test_how_a_video_was_cut_makes_no_difference(street: Path, tmp_path: Path) -> None:
    config = Config(
        scope="person", detector="person_nano", sample_fps=10.0, inputs=("box",), embedder="efficientnet_lite0"
    )
    extractor, tables = Extractor(config), []
    for chunk_s in (0.5, 60.0):
        lake = tmp_path / f"{chunk_s:g}"
        analyze_here([str(street)], lake, replace(config, chunk_s=chunk_s), [], extractor)
        tell(lake, untrained())
        assert verify(Lake(str(lake))) == []
        tables.append(rows(lake, "forecasts"))
    assert len(tables[0]) > 100
    assert tables[0].equals(tables[1])


@pytest.mark.e2e
def test_a_job_foretells_once_all_is_committed(street: Path, tmp_path: Path) -> None:
    untrained().save(tmp_path / "random")
    config = Config(
        scope="person", detector="person_nano", sample_fps=5.0, inputs=("box",), embedder="efficientnet_lite0"
    )
    lake = tmp_path / "lake"
    state = analyze([str(street)], str(lake), None, config, forecaster=tmp_path / "random")
    assert state.n_forecasts == len(rows(lake, "forecasts")) / 12 > 10
    again = analyze([str(street)], str(lake), None, config, forecaster=tmp_path / "random")
    assert (again.n_chunks_done, again.n_forecasts) == (0, 0)


def test_a_job_is_not_begun_for_a_forecaster_that_does_not_fit(street: Path, tmp_path: Path) -> None:
    untrained(unit="m").save(tmp_path / "metres")
    untrained().save(tmp_path / "random")
    lake = tmp_path / "lake"
    for forecaster, scope, message in (
        ("gone", "person", "gone: not a forecaster bundle"),
        (tmp_path / "metres", "person", "trained on metres"),
        (tmp_path / "random", "frame", "in scope 'frame' nobody is followed"),
    ):
        with pytest.raises(UsageError, match=message):
            analyze([str(street)], str(lake), None, Config(scope=scope), forecaster=forecaster)
    assert not lake.exists()


def test_an_unexpected_error_costs_a_video(walkers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_boxes = Trajectory.of_boxes

    def failing(time_s: np.ndarray, xyxy: np.ndarray, ground: object = None) -> Trajectory:
        if time_s[0] == 2.0:
            raise RuntimeError("a fault")
        return of_boxes(time_s, xyxy)

    monkeypatch.setattr(step.Trajectory, "of_boxes", failing)
    said = foretell_shard(0, str(walkers), untrained(), ForetellOptions(), None)
    assert said.n_forecasts == 42
    assert len(said.failures) == 1
    assert "a fault" in said.failures[0]
    monkeypatch.undo()
    # The next call tries the shard again.
    assert forecast(str(walkers), untrained()).n_videos == 4


def test_metres_are_foretold_on_the_ground(walkers: Path, tmp_path: Path) -> None:
    model = straight_on(tmp_path)
    metres = replace(model, name="metres", spec=model.spec | {"unit": "m"})
    (tmp_path / "H.csv").write_text("0.01 0 0\n0 0.02 0\n0 0 1\n")
    forecast(str(walkers), metres, ground=tmp_path / "H.csv")
    row = (
        open_lake(str(walkers))
        .sql("SELECT * FROM forecasts WHERE video_id = 'a1' AND track_id = 1 LIMIT 1")
        .to_pylist()[0]
    )
    assert (row["x"], row["y"]) == pytest.approx((160, 100), abs=0.01)
    # A metre is 100 pixels across and 50 down.
    assert row["sx"] == pytest.approx(2 * row["sy"], rel=1e-5)


def test_who_walks_past_the_camera_is_foretold_to_the_edge_of_the_picture(tmp_path: Path) -> None:
    """Behind the camera the homography turns the picture upside down."""
    # A camera 3 m high that looks down by 30 degrees: pixels of places on the ground, right and ahead, in metres.
    down, ahead = np.sin(np.pi / 6), np.cos(np.pi / 6)
    camera = np.array([[800.0, 0, 0], [0, 800, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, -down, 3 * ahead], [0, ahead, 3 * down]]
    )
    np.savetxt(tmp_path / "H.csv", np.linalg.inv(camera), delimiter=",")
    time_s = np.arange(60) / 10
    places = np.column_stack([0 * time_s, 10.5 - 1.4 * time_s, np.ones(60)]) @ camera.T
    feet = places[:, :2] / places[:, 2:]
    lake = lake_of_walkers(tmp_path / "lake", [{"a": {1: (time_s, feet)}}])
    model = straight_on(tmp_path)
    forecast(str(lake), replace(model, name="m", spec=model.spec | {"unit": "m"}), ground=tmp_path / "H.csv")
    found = open_lake(str(lake)).table("forecasts").to_pylist()
    last = [row["y"] for row in found if row["made_at_s"] == found[-1]["made_at_s"]]
    assert len(last) == 12
    # Down the picture, and then no further; never up into the sky.
    assert (np.diff(last) >= -1e-3).all()
    assert last[0] > feet[-1, 1] - 100
    assert all(row["sx"] > 0 and row["sy"] > 0 for row in found)


def test_who_is_out_of_sight_is_not_foretold(tmp_path: Path) -> None:
    whole = walk(0, 8, 0, 100)
    seen = (whole[0] <= 4.0) | (whole[0] >= 4.9)
    lake = lake_of_walkers(tmp_path / "lake", [{"a": {1: (whole[0][seen], whole[1][seen])}}])
    found = tell(lake, straight_on(tmp_path)).sql("SELECT DISTINCT made_at_s FROM forecasts ORDER BY 1").to_pydict()
    # Not at 4.4 and 4.8 s, though the path is known afterwards.
    assert found["made_at_s"] == [2.8, 3.2, 3.6, 4.0, 5.2, 5.6, 6.0, 6.4, 6.8, 7.2, 7.6, 8.0]


@pytest.mark.parametrize("name", EMBEDDED_FORECASTERS)
def test_the_embedded_forecaster_knows_that_walkers_go_on(walkers: Path, name: str) -> None:
    bundle = load_forecaster(name)
    assert (bundle.name, bundle.unit, bundle.longest_s) == (name, "heights", pytest.approx(4.8))
    lake = tell(walkers, bundle)
    found = lake.sql("SELECT * FROM forecasts WHERE video_id = 'a1' AND track_id = 1 AND horizon_s = 2.0").to_pylist()
    ahead = [row["x"] - 50 * row["made_at_s"] for row in found]
    # 50 pixels a second: a hundred in two seconds, give or take half of that.
    assert all(50 < moved < 150 for moved in ahead)
    assert all(abs(row["y"] - 100) < 50 for row in found)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, ForetellOptions(horizon_s=9.0), r"--horizon 9: forecaster 'random' tells 0.4 to 4.8 s ahead"),
        ({}, ForetellOptions(horizon_s=0.1), r"--horizon 0.1: forecaster 'random' tells 0.4 to 4.8 s ahead"),
        ({}, ForetellOptions(every_s=0.5), r"--every 0.5: .* goes in steps of 0.4 s"),
        ({}, ForetellOptions(every_s=0.0), r"--every 0: .* goes in steps of 0.4 s"),
        ({}, ForetellOptions(every_s=float("inf")), r"--every inf: .* goes in steps of 0.4 s"),
        ({}, ForetellOptions(horizon_s=float("nan")), r"--horizon nan: .* tells 0.4 to 4.8 s ahead"),
        ({"unit": "m"}, ForetellOptions(), "trained on metres, and the lake holds pixels; name the camera's ground"),
    ],
)
def test_what_can_not_be_foretold_is_refused(
    walkers: Path, model: dict[str, object], options: ForetellOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        forecast(str(walkers), untrained(**model), options)


def test_lakes_and_models_that_do_not_fit(walkers: Path, tmp_path: Path) -> None:
    (tmp_path / "H.csv").write_text("1 0 0\n0 1 0\n0 0 1\n")
    with pytest.raises(UsageError, match="trained on heights of people in the picture; leave --ground out"):
        forecast(str(walkers), untrained(), ground=tmp_path / "H.csv")
    Lake(str(tmp_path / "frames")).claim(Config(scope="frame").feature_options())
    with pytest.raises(UsageError, match="of scope 'frame', nobody is followed in it"):
        forecast(str(tmp_path / "frames"), untrained())
    Lake(str(tmp_path / "empty")).claim(Config(scope="person").feature_options())
    with pytest.raises(UsageError, match="nothing is committed in it yet"):
        forecast(str(tmp_path / "empty"), untrained())
    with pytest.raises(UsageError, match="no lake there"):
        forecast(str(tmp_path / "nowhere"), untrained())
    with pytest.raises(UsageError, match=r"gone: not a forecaster bundle, model.json is missing; name a folder that"):
        load_forecaster(tmp_path / "gone")
    (tmp_path / "straight").mkdir(exist_ok=True)
    untrained().save(tmp_path / "broken")
    (tmp_path / "broken" / "model.json").write_text(
        (tmp_path / "broken" / "model.json").read_text().replace("16", "17")
    )
    with pytest.raises(UsageError, match=r"model\.json and the weights do not fit together"):
        load_forecaster(tmp_path / "broken")
