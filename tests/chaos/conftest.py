"""What all tests that break things share: an archive, its undisturbed lake, and workers that can be broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline import Config, analyze
from tests.chaos import faults
from tests.synthetic import RECIPES, make_video

# A worker is replaced so fast that several faults can hit the same chunk. It must not be given up for that.
CONFIG = Config(scope="frame", sample_fps=5.0, chunk_s=0.5, shard_videos=2, workers=2, max_attempts=10)
N_CHUNKS = 32


def make_archive(folder: Path) -> Path:
    """Make the videos that `N_CHUNKS` counts the chunks of, all of different size."""
    folder.mkdir()
    for number in range(8):
        make_video(folder / f"{number}.mp4", RECIPES[1], n_frames=75, size=(160 + 16 * number, 96))
    return folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of two seconds and more."""
    return make_archive(tmp_path_factory.mktemp("chaos") / "archive")


def _broken_workers(folder: Path, start: Callable[[], Any], end: Callable[[], None]) -> Iterator[Path]:
    """Let the workers of this process do what `faults.set_faults` says, between start and end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(faults.FOLDER, str(folder))
        patch.setenv("PYTHONPATH", faults.PYTHONPATH)
        start()
        yield folder
        end()


def _start_ray() -> None:
    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=512 << 20, runtime_env=faults.RUNTIME_ENV,
    )  # fmt: skip


on_ray_alone = pytest.mark.parametrize("breakable", ["ray"], indirect=True)
"""For a test of what only Ray has."""


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.long)])
def breakable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Workers that can be broken, of each engine in turn: where Ray runs a job takes it."""
    start, end = (_start_ray, ray.shutdown) if request.param == "ray" else (lambda: None, lambda: None)
    yield from _broken_workers(tmp_path_factory.mktemp("faults"), start, end)


@pytest.fixture(scope="session")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a quiet run."""
    lake = tmp_path_factory.mktemp("undisturbed") / "lake"
    state = analyze(str(archive), str(lake), config=CONFIG, engine="local")
    assert (state.n_videos_done, state.n_chunks_done, state.n_failed) == (8, N_CHUNKS, 0)
    return lake


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lake"
    shutil.rmtree(tmp_path, ignore_errors=True)
