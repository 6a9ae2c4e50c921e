"""Shared fixtures: real data, generated videos, one Ray for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from pipeline.vision.network import Image
from tests.synthetic import RECIPES, make_video

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _shared(variable: str, name: str) -> Path:
    """Return a folder of shared inputs; without it skip, but never in CI."""
    folder = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / name)
    if not folder.is_dir():
        message = f"{folder} is absent; set {variable}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real footage with ground truth."""
    return _shared("ACTIONLAKE_DATA", "data")


@pytest.fixture(scope="session")
def person_weights() -> Path:
    """Ultralytics weights that find people."""
    return _shared("ACTIONLAKE_WEIGHTS", "weights") / "yolov8n_coco.pt"


@pytest.fixture(scope="session")
def street(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of pedestrians, with a keyframe every half second so that there is something to cut."""
    path = tmp_path_factory.mktemp("street") / "street.mp4"
    with av.open(str(data_dir / "street" / "vtest.avi")) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=10, options={"g": "5", "bf": "2", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 768, 576, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if number == 60:
                break
            frame.pts = number
            target.mux(stream.encode(frame.reformat(format="yuv420p")))
        target.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def people(data_dir: Path) -> Image:
    """A frame of the street, `uint8 [256, 320, 3]`, at a time of which the embedded detector has seen nothing."""
    with av.open(str(data_dir / "street" / "vtest.avi")) as container:
        frame = next(frame for frame in container.decode(video=0) if frame.time >= 60.0)
    return frame.reformat(320, 256, "rgb24").to_ndarray()


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a numbered video of 60 frames for every recipe."""
    folder = tmp_path_factory.mktemp("numbered")
    for recipe in RECIPES:
        make_video(folder / recipe.name, recipe)
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray on this machine, shared by the tests of a module, with a logical GPU that only bookkeeping knows."""
    import ray

    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=1 << 30,
    )  # fmt: skip
    yield
    ray.shutdown()
