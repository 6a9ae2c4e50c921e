"""Training by several processes, of which some are killed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipeline.activity.model import ActivityModel
from pipeline.engine.fork_server import fork_server
from pipeline.engine.local_fits import LocalFits
from pipeline.engine.ray.fits import RayFits
from pipeline.training.dataset import LabelledVideo
from pipeline.training.distributed import VideoSource, fit_on_cluster
from pipeline.training.fit import FitOptions, fit
from pipeline.training.fits import Fit, Fitted, run_fit
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


@pytest.mark.e2e
def test_side_by_side_on_either_engine_networks_learn_what_one_process_teaches_them(
    source: GivenVideos, tmp_path: Path, local_ray: None
) -> None:
    """A process that is killed after an epoch costs no more than the next: another goes on from there."""
    options = replace(OPTIONS, epochs=3)
    fits = [
        Fit(tuple(names()), (), replace(options, seed=seed), tmp_path / f"{seed}.pt", f"network {seed}")
        for seed in range(2)
    ]
    expected = [next(told for told in run_fit(source, fit) if len(told) == 2) for fit in fits]
    told: list[tuple[str, int, float]] = []

    def on_epoch(*epoch: Any) -> None:
        told.append(epoch)
        if len(told) == 1:
            workers = psutil.Process(fork_server().pid).children()
            workers[-1].kill()

    for checkpoint in tmp_path.iterdir():
        checkpoint.unlink()
    with closing(LocalFits(source, 2, on_epoch)) as local:
        found = local.wait_for([local.begin(fit) for fit in fits])
    assert_learnt(found, expected)
    assert sorted(set(told)) == sorted(told), "no epoch was trained twice, or the state of the one before was lost"
    for checkpoint in tmp_path.iterdir():
        checkpoint.unlink()
    on_ray = RayFits(source, False, lambda *_: None)
    assert_learnt(on_ray.wait_for([on_ray.begin(fit) for fit in fits]), expected)


def assert_learnt(found: Sequence[Fitted], expected: Sequence[Fitted]) -> None:
    for (spec, learnt), (other_spec, other) in zip(found, expected, strict=True):
        assert spec == other_spec
        assert learnt.keys() == other.keys()
        assert all(torch.equal(learnt[name], other[name]) for name in learnt)
