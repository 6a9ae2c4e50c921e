"""Options in TOML files: tables, files of earlier versions, mistakes."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import Config, groups_of_options
from pipeline.errors import UsageError
from pipeline.options import to_toml


@pytest.mark.parametrize(
    ("named", "decoded_px"),
    [
        ({"inputs": ("box", "pose")}, 480),
        ({"inputs": ("crop", "box")}, 480),
        ({"inputs": ("box", "pose"), "detector_px": 256}, 256),
        ({"inputs": ("box", "pose"), "detector_px": 256, "frame_px": 320}, 320),
        ({"inputs": ("crop", "crop_flow", "box")}, 640),
        ({"detector": "yolo11n.pt"}, 640),
        ({"embedder": "efficientnet_lite0"}, 640),
        ({"scope": "frame"}, 320),
        ({"scope": "both"}, 640),
    ],
)
def test_frames_are_as_large_as_what_looks_at_them_needs(named: dict[str, Any], decoded_px: int) -> None:
    """If the detector alone looks, its own size spares a second resizing."""
    assert Config(**named).decoded_px == decoded_px


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.toml"


def test_what_is_written_is_read_back(path: Path) -> None:
    config = replace(
        Config(), inputs=("crop", "box"), chunk_s=4.0, workers=3, detector='a "b" \\ c.pt', camera="*/{camera}"
    )
    path.write_text(to_toml(asdict(config), groups_of_options()))
    assert Config.load(path) == config


def test_a_file_of_earlier_versions_is_read_with_a_hint(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text('scope = "frame"\nchunk_s = 4\n[people]\nmax_people = 5\n')
    config = Config.load(path, {"max_people": 7}, chunk_s=9.0)
    assert (config.scope, config.chunk_s, config.max_people) == ("frame", 9.0, 5)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == f"{path}: options stand in tables now: move scope into [features]; chunk_s into [resources]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[people]\nsample_fps = 3", r"sample_fps stands in \[people\]; it belongs into \[features\]"),
        ("[people]\nmax_peple = 3", "unknown option 'max_peple'; did you mean 'max_people'"),
        ("[peple]\nmax_people = 3", "unknown option 'peple'; did you mean 'people'"),
        ("people = 3", "unknown option 'people'"),
        ("[odd]", "unknown option 'odd'; `actionlake config` prints all"),
        ("[features]\nsample_fps = 0", r"sample_fps = 0: expected float >= 0\.01"),
        ("[features]\nsample_fps = true", "sample_fps = True: expected float, got bool"),
        ("[features]\ninputs = 3", "inputs = 3: expected array, got int"),
        ("[features]\ninputs = ['poses']", "inputs: 'poses' is not one of frame, frame_change"),
        ("[resources]\nlayout = 'odd'", "layout = 'odd' is not one of auto, fused, split"),
        ("[resources]\ngpus_per_actor = 1.5", r"gpus_per_actor = 1\.5: above 1 it must be whole"),
        ("[people]\nclasses = []", r"classes = \(\): expected array of length >= 1"),
        ("[people]\ndetector_px = 333", "detector_px = 333: expected int that's a multiple of 32"),
    ],
)
def test_a_mistake_is_told_by_its_name(text: str, told: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        Config.load(path)


def test_the_command_prints_every_option_with_its_default_and_what_it_is() -> None:
    printed = CliRunner().invoke(app, ["config"])
    assert printed.exit_code == 0
    tables: dict[str, dict[str, Any]] = tomllib.loads(printed.stdout)
    defaults = asdict(Config())
    found = {name: value for table in tables.values() for name, value in table.items()}
    assert found == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in defaults.items()
        if value is not None
    }
    lines = printed.stdout.splitlines()
    for option in fields(Config):
        at = next(n for n, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{option.name} ="))
        assert lines[at - 1].startswith("# "), f"{option.name}: not a word on it"
