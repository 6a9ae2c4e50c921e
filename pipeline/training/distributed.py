"""Data-parallel training on a Ray cluster. Each worker reads the lake, takes its share of every batch, and may die."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.activity.model import ActivityModel
from pipeline.activity.spec import ModelSpec
from pipeline.errors import ActionlakeError
from pipeline.lake.query import open_lake
from pipeline.training.annotations import Annotation
from pipeline.training.checkpoints import Resumable
from pipeline.training.dataset import LabelledVideo, load_videos
from pipeline.training.fit import FitOptions, Fitting, Share, options_of_members, spec_of, trained_member
from pipeline.training.skeletons import Skeletons, seen_from_anywhere

# How often workers that died are restarted from the last epoch, in one training.
_MAX_FAILURES = 3
_STATE = "state.pt"
# The name of the video of all skeletons. No file can have this name.
_SKELETONS = "skeletons/"


@dataclass(frozen=True, eq=False)
class VideoSource:
    """Where labelled videos come from. Every worker loads them itself, into a file that is mapped into memory."""

    lake: str
    uris: Mapping[str, str]
    annotations: Sequence[Annotation]
    labels: Sequence[str]
    scope: str
    inputs: Sequence[str]
    skeletons: Skeletons | None = None
    """Skeletons to learn from in addition to the videos."""
    video_ids: frozenset[str] | None = None
    """The ids of the files as they are now, because the lake may also know earlier versions. None: all count."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Identifies copies of it in other processes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VideoSource) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def load(self) -> list[LabelledVideo]:
        """Return the videos (see `load_videos`), then the skeletons."""
        lake = open_lake(self.lake)
        videos = load_videos(
            lake, dict(self.uris), self.annotations, self.labels, self.scope, self.inputs, self.video_ids
        )
        if self.skeletons is None or not videos:
            return videos
        rate = float(lake.feature_options["sample_fps"])
        seen = seen_from_anywhere(self.skeletons, self.labels, self.inputs, rate)
        return [*videos, LabelledVideo(_SKELETONS, tuple(seen), ())]


def fit_on_cluster(
    source: VideoSource,
    training: Sequence[str],
    validation: Sequence[str],
    options: FitOptions,
    n_workers: int,
    storage: str | Path,
    use_gpu: bool = False,
) -> ActivityModel:
    """Train one model by several workers of the cluster that is joined, and return it in evaluation mode.

    The workers average their gradients, so that the model is what one worker would have learnt, except for the order of
    sums and for dropout. After each epoch the state is saved in `storage`. Workers that died resume from there, and so
    does the same call after the driver died.

    Args:
        source: The labelled videos.
        training: Names of the videos to learn from.
        validation: Names of the videos for early stopping.
        options: Sizes, regularisation and the seed.
        n_workers: Number of workers, each with one CPU.
        storage: Folder that all nodes share, local or remote.
        use_gpu: Whether each worker holds a GPU.

    Raises:
        ActionlakeError: Workers failed too often.
    """
    members = []
    for of_member in options_of_members(options):
        saved = _fit_member(source, training, validation, of_member, n_workers, storage, use_gpu)
        members.append(trained_member(ModelSpec(**saved["spec"]), saved["state"]))
    return ActivityModel.of(members)


def _fit_member(
    source: VideoSource,
    training: Sequence[str],
    validation: Sequence[str],
    options: FitOptions,
    n_workers: int,
    storage: str | Path,
    use_gpu: bool,
) -> dict[str, Any]:
    """Train one member and return its spec and its last state."""
    drawn = [(each.draws, *each.alternatives) for each in source.annotations]
    bodies = zlib.crc32(source.skeletons.joints.tobytes()) if source.skeletons else None
    data = (source.lake, sorted(training), sorted(validation), list(source.inputs), drawn, bodies)
    config = {
        "source": source,
        "training": frozenset(training),
        "validation": frozenset(validation),
        "options": options,
    }
    return train_on_cluster(_work, config, repr((*data, options, n_workers)), n_workers, storage, use_gpu)


def train_on_cluster(
    work: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    purpose: str,
    n_workers: int,
    storage: str | Path,
    use_gpu: bool,
) -> dict[str, Any]:
    """Let workers of the cluster that is joined train one network together, and return their last saved state.

    Args:
        work: What each worker does; it calls `run_worker`.
        config: Given to each worker.
        purpose: Identifies the training, so that it never resumes from the checkpoints of another one.
        n_workers: Number of workers, each with one CPU.
        storage: Folder that all nodes share, local or remote.
        use_gpu: Whether each worker holds a GPU.

    Raises:
        ActionlakeError: Workers failed too often.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            # Ray resumes a run of the same name in the same place. So different trainings need different names.
            name=hashlib.sha256(purpose.encode()).hexdigest()[:16],
            storage_path=str(storage) if "://" in str(storage) else os.path.abspath(storage),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise ActionlakeError(
            f"training stopped after {_MAX_FAILURES} failures of its workers ({error}); the same command goes on from "
            "the last epoch"
        ) from error
    with result.checkpoint.as_directory() as folder:
        saved: dict[str, Any] = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
    return saved


def _work(config: dict[str, Any]) -> None:
    """Train as one of the workers."""
    source, options = config["source"], config["options"]
    videos = source.load()
    training, validation = (
        [sequence for video in videos if video.video in config[part] for sequence in video.sequences]
        for part in ("training", "validation")
    )
    spec = spec_of(training, source.inputs, len(source.labels), options)
    run_worker(lambda *share: Fitting(training, validation, spec, options, *share), asdict(spec))


def run_worker(
    begin: Callable[[Share, Callable[[nn.Module], nn.Module], Any], Resumable], spec: dict[str, Any]
) -> None:
    """Train as one of the workers of `train_on_cluster`, from the last epoch that was saved.

    Args:
        begin: Prepares the training, given this worker's share, the function that averages gradients, and the device.
        spec: The spec of the network, saved together with its state.
    """
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    fitting = begin(
        Share(context.get_world_rank(), context.get_world_size()),
        lambda network: ray.train.torch.prepare_model(network, move_to_device=False),
        ray.train.torch.get_device(),
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
        fitting.load(saved["state"])
    while not fitting.finished:
        loss = fitting.run_epoch()
        with tempfile.TemporaryDirectory() as folder:
            written = None
            if context.get_world_rank() == 0:
                torch.save({"spec": spec, "state": fitting.state()}, Path(folder) / _STATE)
                written = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"epoch": fitting.epoch, "loss": loss}, checkpoint=written)
