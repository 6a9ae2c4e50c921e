"""Measure how close a job comes to the limit of the machine: its time, compared with that of each stage alone."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.archive.plan import plan_shards
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.config import Config, groups_of_options
from pipeline.engine.models import DEFAULT_MODEL, choose_models
from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake.plans import write_plan
from pipeline.lake.store import Lake
from pipeline.options import to_toml
from pipeline.steps.commit import ShardCommitter
from pipeline.steps.extract import Extractor, describe_networks
from pipeline.steps.in_order import extract_shard
from pipeline.vision.weights import find_weights


@dataclass(frozen=True)
class Alone:
    """Seconds that each stage computes if the stages run one after the other on one thread, and the total time."""

    video_s: float
    """Length of the videos."""
    n_frames: int
    """Frames sampled."""
    n_boxes: int
    """People detected in them."""
    decode: float
    """Reading, decoding, converting and resizing the frames that are sampled."""
    detect: float
    """The detector's network."""
    embed: float
    """The CNN."""
    flow: float
    """Optical flow and its description."""
    label: float
    """The activity models."""
    wall_s: float
    """The total time, with the work between the stages: crops, suppression, tracks, rows, files."""

    @property
    def stages(self) -> dict[str, float]:
        """The seconds of each stage, by name."""
        return {name: getattr(self, name) for name in ("decode", "detect", "embed", "flow", "label")}

    @property
    def busy_s(self) -> float:
        """The sum over the stages."""
        return sum(self.stages.values())


def measure_alone(sources: Sequence[str], config: Config) -> Alone:
    """Run a job in this process, stage after stage on one thread, without Ray. Its rows are discarded.

    Raises:
        ActionlakeError: A video can't be read.
    """
    bundles = choose_models(DEFAULT_MODEL, config.scope, config)
    networks = describe_networks(config)
    extractor, committer = Extractor(config), ShardCommitter(config, bundles)
    probed = [(ref, probe_video(ref, config.limits, config.track)) for ref in list_videos(sources)]
    (planned,) = plan_shards(probed, config.grid_rate, config.chunk_s, len(probed), math.inf)
    n_frames = n_boxes = 0
    decode_s = 0.0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        lake.claim(config.feature_options())
        write_plan(lake, 0, planned)
        for receipt in extract_shard(lake, 0, config, extractor):
            if receipt.failure_kind:
                raise ActionlakeError(receipt.failure_message)
            n_frames += receipt.n_frames
            n_boxes += receipt.n_boxes
            decode_s += receipt.decode_s
        committer.commit(lake, 0, networks)
    return Alone(
        video_s=sum(video.probe.duration_s for video in planned if video.probe is not None),
        n_frames=n_frames,
        n_boxes=n_boxes,
        decode=decode_s,
        label=committer.busy_s,
        wall_s=time.perf_counter() - started,
        **extractor.busy_s(),
    )


@dataclass(frozen=True)
class Benchmark:
    """The measurements. Each trial measures a job, and its stages alone."""

    cpus: int
    job_s: tuple[float, ...]
    """Seconds from command to prompt."""
    alone: tuple[Alone, ...]

    @property
    def efficiency(self) -> tuple[float, ...]:
        """The time that the stages alone would take on all cores, as a share of the job's time."""
        return tuple(alone.busy_s / self.cpus / job_s for alone, job_s in zip(self.alone, self.job_s, strict=True))

    @property
    def between(self) -> tuple[float, ...]:
        """The work between the stages, on all cores, as a share of the job's time."""
        pairs = zip(self.alone, self.job_s, strict=True)
        return tuple((alone.wall_s - alone.busy_s) / self.cpus / job_s for alone, job_s in pairs)

    @property
    def rest(self) -> tuple[float, ...]:
        """The share of the job's time in which cores start, wait or end, or slow each other down."""
        return tuple(1 - stages - between for stages, between in zip(self.efficiency, self.between, strict=True))

    @property
    def hours_per_hour(self) -> tuple[float, ...]:
        """Hours of video processed per hour."""
        return tuple(alone.video_s / job_s for alone, job_s in zip(self.alone, self.job_s, strict=True))

    def to_json(self) -> str:
        """Return everything as JSON."""
        shares = {"efficiency": self.efficiency, "between": self.between, "rest": self.rest}
        measured = shares | {"hours_per_hour": self.hours_per_hour}
        return json.dumps(asdict(self) | measured, indent=1)


def run_benchmark(sources: Sequence[str], config: Config, repeats: int) -> Benchmark:
    """Run the job and its stages alone, in turns, each in a process of its own.

    Raises:
        ActionlakeError: A process failed; the message is what it wrote.
    """
    job_s, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        options = Path(folder) / "job.toml"
        options.write_text(to_toml(asdict(config), groups_of_options()), encoding="utf-8")
        job = [sys.executable, "-m", "pipeline.cli", "analyze", *sources, "--config", str(options), "--lake"]
        for number in range(repeats):
            by_itself = [sys.executable, "-m", __name__, str(options), *sources]
            alone.append(Alone(**json.loads(_run(by_itself, OMP_NUM_THREADS="1"))))
            started = time.perf_counter()
            _run([*job, f"{folder}/lake-{number}"])
            job_s.append(time.perf_counter() - started)
    return Benchmark(config.workers or os.cpu_count() or 1, tuple(job_s), tuple(alone))


def run_peers(sources: Sequence[str], config: Config, repeats: int, out: Path | None) -> None:
    """Run the benchmark of the peer programs on one video. They are part of the source tree.

    Raises:
        UsageError: There is no source tree here, or there are several videos, or no weights that peers can read.
    """
    if not Path("tests/bench/peers").is_dir():
        raise UsageError("--peers needs the source tree: run it in a checkout, with pip install -e '.[bench]'")
    weights = find_weights(config.chosen_detector)
    if len(sources) != 1 or weights.is_dir():
        raise UsageError("--peers takes one video, and detector = the path or name of Ultralytics weights in --config")
    command = [sys.executable, "-m", "tests.bench.peers", sources[0], str(weights), "--repeats", str(repeats)]
    code = subprocess.run([*command, *(("--out", str(out)) if out else ())], check=False).returncode
    if code:
        raise ActionlakeError(f"the benchmark of the peers ended with code {code}")


def median_and_range(values: Sequence[float], digits: int = 2) -> str:
    """Return the median and the range as text: `0.87 (0.85 to 0.88)`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _run(command: list[str], **variables: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    if done.returncode:
        raise ActionlakeError(done.stderr.strip() or f"{' '.join(command)}: exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(measure_alone(sys.argv[2:], Config.load(sys.argv[1])))))
    except ActionlakeError as error:
        sys.exit(str(error))
