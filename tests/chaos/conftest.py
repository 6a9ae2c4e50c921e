"""What all tests that break things share: an archive, its undisturbed lake, and a Ray whose workers can be broken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline import Config, analyze
from tests.chaos import faults
from tests.conftest import REPOSITORY
from tests.synthetic import RECIPES, make_video

CONFIG = Config(scope="frame", sample_fps=5.0, chunk_s=0.5, shard_videos=2, workers=2, layout="fused")
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


@pytest.fixture(scope="module")
def breakable_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray of two cores whose workers do what `faults.set_faults` says; the folder for that."""
    folder = tmp_path_factory.mktemp("faults")
    os.environ[faults.FOLDER] = str(folder)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=512 << 20, runtime_env=faults.RUNTIME_ENV,
    )  # fmt: skip
    yield folder
    ray.shutdown()
    del os.environ[faults.FOLDER]
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of a quiet run."""
    lake = tmp_path_factory.mktemp("undisturbed") / "lake"
    state = analyze(str(archive), str(lake), config=CONFIG)
    assert (state.n_videos_done, state.n_chunks_done, state.n_failed) == (8, N_CHUNKS, 0)
    return lake


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lake"
    shutil.rmtree(tmp_path, ignore_errors=True)
