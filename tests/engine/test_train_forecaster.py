"""From tracks to a bundle with its figures, and from that to forecasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.engine.train_forecaster import TrackOptions, train_forecaster
from pipeline.errors import UsageError
from pipeline.motion.forecaster_bundle import load_forecaster
from pipeline.motion.forecasting import ForecasterSpec
from pipeline.training.forecast_fit import ForecastOptions
from tests.engine.test_forecast import tell
from tests.lakes import lake_of_walkers
from tests.motion.test_forecasting import turners

SPEC = ForecasterSpec(hidden_dim=8, n_paths=2)
OPTIONS = ForecastOptions(epochs=1, batch_size=64)


def text_of(folder: Path, name: str, paths: np.ndarray) -> Path:
    """Write paths as a file of ETH/UCY, at 25 frames/s; ten people start at a time."""
    lines = [
        f"{10 * (step + 30 * (who // 10))}\t{who}\t{x:.4f}\t{y:.4f}"
        for who, path in enumerate(paths)
        for step, (x, y) in enumerate(path)
    ]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


@pytest.fixture
def tracks(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    return [text_of(tmp_path, f"{name}.txt", turners(60, rng, 24)) for name in ("one", "two", "three")]


def test_what_is_named_to_test_is_measured_beside_baselines(tracks: list[Path], tmp_path: Path) -> None:
    result = train_forecaster(tracks[:2], tmp_path / "walkers", SPEC, OPTIONS, test=tracks[2:], note="made up")
    assert sorted(result.metrics) == ["constant_velocity", "model", "still"]
    assert all(figures["n"] == 60 * 5 for figures in result.metrics.values())
    assert result.metrics["still"]["ade"] > result.metrics["constant_velocity"]["ade"] > 0
    bundle = load_forecaster(tmp_path / "walkers")
    assert (bundle.name, bundle.unit, bundle.training["tracks"]) == ("walkers", "m", ["one.txt", "two.txt"])
    assert len(bundle.model.spec.spread) == 12
    card = (tmp_path / "walkers" / "README.md").read_text()
    assert "made up" in card
    assert f"{result.metrics['model']['ade']:.3f} / {result.metrics['model']['fde']:.3f}" in card
    assert not (tmp_path / "walkers-checkpoints").exists()


def test_without_it_the_last_fifth_of_each_source_is_held_out(tracks: list[Path], tmp_path: Path) -> None:
    result = train_forecaster(tracks[:1], tmp_path / "walkers", SPEC, OPTIONS)
    # Sixty people, ten at a time: the last ten, and a part of those before.
    n = result.metrics["model"]["n"]
    assert 50 <= n <= 100
    assert result.bundle.training["n_windows"] + n < 60 * 5
    # Of one that is filmed much later just as much.
    later = text_of(tmp_path, "later.txt", turners(60, np.random.default_rng(1), 24))
    later.write_text(
        "".join(
            f"{int(line.split()[0]) + 90_000}\t{line.split(chr(9), 1)[1]}\n" for line in later.read_text().splitlines()
        )
    )
    both = train_forecaster([tracks[0], later], tmp_path / "both", SPEC, OPTIONS)
    assert both.metrics["model"]["n"] == 2 * n


def test_an_interrupted_training_goes_on(tracks: list[Path], tmp_path: Path) -> None:
    options = ForecastOptions(epochs=2, batch_size=64)

    def stop(_: str, epoch: int, __: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_forecaster(tracks, tmp_path / "a", SPEC, options, on_epoch=stop)
    told: list[int] = []
    resumed = train_forecaster(tracks, tmp_path / "a", SPEC, options, on_epoch=lambda _, epoch, __: told.append(epoch))
    assert told == [2]
    quiet = train_forecaster(tracks, tmp_path / "b", SPEC, options)
    for name, values in quiet.bundle.weights.items():
        np.testing.assert_array_equal(resumed.bundle.weights[name], values)


def test_cameras_make_a_forecaster_of_pictures_which_foretells_a_lake(tracks: list[Path], tmp_path: Path) -> None:
    reading = TrackOptions(cameras=2)
    result = train_forecaster(tracks, tmp_path / "seen", SPEC, OPTIONS, reading)
    assert result.bundle.unit == "heights"
    assert result.bundle.training["n_scenes"] == 6
    time_s = np.arange(60) / 10
    lake = lake_of_walkers(tmp_path / "lake", [{"a": {1: (time_s, np.column_stack([40 * time_s, 200 + 0 * time_s]))}}])
    told = tell(lake, result.bundle).table("forecasts")
    assert told.num_rows == 8 * 12
    # The lake itself is a source, beside pictures.
    again = train_forecaster([*tracks, str(lake)], tmp_path / "both", SPEC, OPTIONS, reading)
    assert again.bundle.training["n_scenes"] == 7


def test_sources_that_do_not_fit(tracks: list[Path], tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text("".join(f"{10 * k},1,{5 * k},20,30,80\n" for k in range(40)))
    with pytest.raises(UsageError, match=r"some places are in metres \(one.txt\), some in pixels \(boxes.txt\)"):
        train_forecaster([tracks[0], tmp_path / "boxes.txt"], tmp_path / "x", SPEC, OPTIONS)
    with pytest.raises(UsageError, match=r"--test: its places are in 'heights', those to learn from in 'm'"):
        train_forecaster(tracks, tmp_path / "x", SPEC, OPTIONS, test=[tmp_path / "boxes.txt"])
    (tmp_path / "short.txt").write_text("".join(f"{10 * k} 1 {k} 0\n" for k in range(19)))
    with pytest.raises(UsageError, match=r"the sources: nobody is followed for 7.6 s, which is what is seen and fore"):
        train_forecaster([tmp_path / "short.txt"], tmp_path / "x", SPEC, OPTIONS)
    with pytest.raises(UsageError, match="what is measured on: nobody is followed"):
        train_forecaster(tracks, tmp_path / "x", SPEC, OPTIONS, test=[tmp_path / "short.txt"])
    (tmp_path / "nobody.txt").write_text("1,1,0,0,5,5,0,1\n")
    for more in ({}, {"reading": TrackOptions(cameras=2)}):
        with pytest.raises(UsageError, match=r"nobody.txt: nobody is followed in it"):
            train_forecaster([tmp_path / "nobody.txt"], tmp_path / "x", SPEC, OPTIONS, **more)
    with pytest.raises(UsageError, match=r"nobody.txt: nobody is followed in it"):
        train_forecaster(tracks, tmp_path / "x", SPEC, OPTIONS, test=[tmp_path / "nobody.txt"])
    with pytest.raises(UsageError, match="fps = nan"):
        train_forecaster(tracks, tmp_path / "x", SPEC, OPTIONS, TrackOptions(fps=float("nan")))
    with pytest.raises(UsageError, match="no source of tracks"):
        train_forecaster([], tmp_path / "x", SPEC, OPTIONS)
    with pytest.raises(UsageError, match="a model can't be called '-x'"):
        train_forecaster(tracks, tmp_path / "-x", SPEC, OPTIONS)


def test_the_commands_train_and_foretell(tracks: list[Path], tmp_path: Path) -> None:
    arguments = ["train-forecaster", *map(str, tracks[:2]), "--test", str(tracks[2]), "--out", str(tmp_path / "mine")]
    done = CliRunner().invoke(
        app, [*arguments, "--kind", "constant_velocity", "--epochs", "1", "--members", "1", "--cameras", "1"]
    )
    assert done.exit_code == 0, done.output
    assert "still" in done.output
    time_s = np.arange(40) / 10
    lake = lake_of_walkers(tmp_path / "lake", [{"a": {1: (time_s, np.column_stack([40 * time_s, 200 + 0 * time_s]))}}])
    done = CliRunner().invoke(app, ["forecast", "--lake", str(lake), "--model", str(tmp_path / "mine")])
    assert done.exit_code == 0, done.output
    assert "3 forecasts of 1 videos" in done.output
    done = CliRunner().invoke(app, ["forecast", "--lake", str(lake), "--model", str(tmp_path / "mine")])
    assert "mine has made all forecasts of this lake before" in done.output


@pytest.mark.e2e
@pytest.mark.long
def test_workers_of_a_cluster_learn_what_one_process_learns(
    tracks: list[Path], tmp_path: Path, local_ray: None
) -> None:
    options = ForecastOptions(epochs=2, batch_size=64)
    together = train_forecaster(tracks, tmp_path / "two", SPEC, options, trainers=2)
    alone = train_forecaster(tracks, tmp_path / "one", SPEC, options)
    untrained = train_forecaster(tracks, tmp_path / "none", SPEC, ForecastOptions(epochs=1, learning_rate=1e-9))
    one, two, none = (
        torch.cat([torch.from_numpy(values).flatten() for _, values in sorted(each.bundle.weights.items())])
        for each in (alone, together, untrained)
    )
    # But for clipping, which sees the workers' mean.
    assert torch.norm(two - one) < 0.1 * torch.norm(one - none)
