"""Training by several workers of a cluster, one of which is killed."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.activity.model import ActivityModel
from pipeline.training.dataset import LabelledVideo
from pipeline.training.distributed import VideoSource, fit_on_cluster
from pipeline.training.fit import FitOptions, fit
from tests.training.test_fit import FRAME, sequences, weights

OPTIONS = FitOptions(hidden_dim=8, members=1, epochs=4, batch_size=8, input_dropout=0.0, dropout=0.0, max_steps=12)


class GivenVideos(VideoSource):
    """Videos that need no lake."""

    def load(self) -> list[LabelledVideo]:
        return [LabelledVideo(str(i), (sequence,), ()) for i, sequence in enumerate(sequences())]


@pytest.fixture
def source() -> GivenVideos:
    return GivenVideos("nowhere", {}, (), ("a", "b", "c"), "frame", FRAME)


def names(n: int = 40) -> list[str]:
    return [str(i) for i in range(n)]


def trained(source: VideoSource, storage: Path, options: FitOptions = OPTIONS) -> ActivityModel:
    return fit_on_cluster(source, names(), [], options, 2, storage)


def ray_workers() -> list[psutil.Process]:
    """Return the processes of Ray Train's workers, as they call themselves."""
    mine = psutil.Process().children(recursive=True)
    every = mine or list(psutil.process_iter())
    return [process for process in every if "RayTrainWorker" in "".join(process.cmdline()[:1])]


@pytest.mark.e2e
@pytest.mark.long
def test_a_killed_worker_is_replaced_and_goes_on(source: GivenVideos, tmp_path: Path, local_ray: None) -> None:
    """A real SIGKILL once the first epoch is saved. But for the order of sums the model is that of one process, which
    nobody disturbed: no epoch was lost or trained twice, and each worker learns from its part of a batch, not from all.
    """
    options = replace(OPTIONS, epochs=6)
    found: list[ActivityModel] = []
    thread = threading.Thread(target=lambda: found.append(trained(source, tmp_path, options)), daemon=True)
    thread.start()
    while thread.is_alive() and not list(tmp_path.glob("*/checkpoint_*")):
        thread.join(0.05)
    victim = ray_workers()[-1]
    victim.kill()
    psutil.wait_procs([victim])
    n_saved = max(torch.load(file, weights_only=True)["state"]["epoch"] for file in tmp_path.glob("*/*/state.pt"))
    assert n_saved < options.epochs, "killed too late to tell anything"
    thread.join()
    assert found, "training did not survive"
    alone = weights(fit(sequences(), FRAME, 3, options))
    untrained = weights(fit(sequences(), FRAME, 3, replace(options, epochs=1, learning_rate=1e-9)))
    assert torch.norm(weights(found[0]) - alone) < 0.05 * torch.norm(alone - untrained)
