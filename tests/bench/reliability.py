"""Inject faults of every kind into jobs, again and again, and count the rows that are lost, doubled and made twice.

    python -m tests.bench.reliability [--engine ray|local] [--trials 3] [--only TEXT] [--out reliability.json]

Each trial is a job over eight videos (32 chunks, 4 shards). Then its lake is compared, row by row and bit by
bit, with that of a run without faults. The calls that fail move on from trial to trial. If a fault ends the command,
the same command is given again, as a part of the trial. The script prints the table of `docs/reliability.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from pipeline import ActionlakeError, Config, analyze
from pipeline.config import groups_of_options
from pipeline.engine.board import JobState
from pipeline.engine.fork_server import fork_server
from pipeline.options import to_toml
from tests.chaos import faults, storage
from tests.chaos.conftest import CONFIG, N_CHUNKS, make_archive
from tests.chaos.faults import Fault
from tests.chaos.job import VARIABLE
from tests.conftest import REPOSITORY
from tests.lakes import TABLES, leftovers, rows

SPLIT = replace(CONFIG, layout="split", workers=1)


@dataclass
class Kind:
    """A kind of fault, and how a trial of it goes."""

    name: str
    trial: Callable[[Bench, int], None]


@dataclass
class Outcome:
    """What became of all trials of a kind."""

    fault: str
    trials: int = 0
    faults: int = 0
    kills: int = 0
    """Processes that died by it."""
    rows_lost: int = 0
    rows_doubled: int = 0
    left_behind: int = 0
    """Scratch and work files in the finished lakes."""
    chunks_again: int = 0
    extra_s: list[float] = field(default_factory=list)
    """How much longer than a quiet run, trial by trial."""


class Bench:
    """The folders of a run, and what trials are made of."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.engine = engine
        self.archive, self.faults, self.quiet = folder / "archive", folder / "faults", folder / "quiet"
        self._folder = folder
        self.lake = folder / "lake-0"
        self.happened = 0
        self.killed = 0
        make_archive(self.archive)
        os.environ[faults.FOLDER] = str(self.faults)
        os.environ["PYTHONPATH"] = faults.PYTHONPATH

    def next_trial(self, number: int) -> None:
        self.lake = self._folder / f"lake-{number}"
        self.happened = self.killed = 0
        faults.set_faults(self.faults, [])

    def job(self, wanted: Sequence[Fault], config: Config = CONFIG, lake: str | None = None, **more: Any) -> JobState:
        """Run a job on the engine of the bench."""
        if self.engine == "ray":
            start_ray()
        faults.set_faults(self.faults, wanted, keep=["decoded"])
        try:
            return analyze(str(self.archive), lake or str(self.lake), config=config, engine=self.engine, **more)
        finally:
            self.count()

    def command(self, config: Config = CONFIG, **driver: object) -> int:
        """Run the command as a process, which does something to itself; return how it ends."""
        if ray.is_initialized():
            ray.shutdown()
        toml = self._folder / "job.toml"
        toml.write_text(to_toml(asdict(config), groups_of_options()))
        arguments = ["analyze", self.archive, "--lake", self.lake, "--config", toml, "--engine", self.engine]
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.job", *arguments],
            env=os.environ | {VARIABLE: json.dumps(driver)}, cwd=REPOSITORY, check=False, capture_output=True,
        )  # fmt: skip
        return done.returncode

    def count(self) -> None:
        lines = faults._lines(self.faults / "happened")
        self.happened += len(lines)
        self.killed += sum("fail" not in line and "space" not in line and "stalls" not in line for line in lines)


def start_ray() -> None:
    """Start the Ray of all jobs whose driver is this process, if none is there."""
    if not ray.is_initialized():
        ray.init(
            address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
            logging_level="FATAL", object_store_memory=512 << 20, runtime_env=faults.RUNTIME_ENV,
        )  # fmt: skip


def in_workers(name: str, *wanted: Fault, config: Config = CONFIG) -> Kind:
    """Faults in workers: at calls that move on by one from trial to trial."""

    def trial(bench: Bench, number: int) -> None:
        moved = [replace(fault, calls=[call + number for call in fault.calls]) for fault in wanted]
        bench.job(moved, config)

    return Kind(name, trial)


def on_command(name: str, expected: Sequence[int], config: Config = CONFIG, kills: int = 1, **driver: Any) -> Kind:
    """Faults of the command itself: after chunks that move on by one from trial to trial; then it is given again."""

    def trial(bench: Bench, number: int) -> None:
        moved = driver | ({"chunks": driver["chunks"] + 2 * number} if "chunks" in driver else {})
        code = bench.command(config, **moved)
        assert code in expected, f"{name}: exit code {code}"
        bench.count()
        bench.happened, bench.killed = 1, bench.killed + kills
        again = bench.command(config)
        assert again == 0, f"{name}: exit code {again} of the same command again"

    return Kind(name, trial)


def on_nodes(name: str, comes_back: bool) -> Kind:
    """Kills a node's raylet, and with it all that runs there."""

    def trial(bench: Bench, number: int) -> None:
        if ray.is_initialized():
            ray.shutdown()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 256 << 20})
        other = cluster.add_node(num_cpus=1, object_store_memory=256 << 20)
        ray.init(cluster.address, log_to_driver=False, logging_level="FATAL", runtime_env=faults.RUNTIME_ENV)

        def kill(state: JobState) -> None:
            if state.n_chunks_done >= 4 + 3 * number and not bench.happened:
                bench.happened = bench.killed = 1
                cluster.remove_node(other, allow_graceful=False)
                if comes_back:
                    cluster.add_node(num_cpus=1, object_store_memory=256 << 20)

        analyze(str(bench.archive), str(bench.lake), config=CONFIG, observer=kill)
        ray.shutdown()
        cluster.shutdown()

    return Kind(name, trial)


def fork_server_killed(bench: Bench, number: int) -> None:
    """Kill the process that forks the workers, and later a worker, whose replacement needs another such process."""
    killed: list[int] = []

    def kill(state: JobState) -> None:
        if state.n_chunks_done >= 4 + number and not killed:
            killed.append(fork_server().pid)
            os.kill(killed[0], signal.SIGKILL)

    bench.job([Fault("decode", calls=[15 + number])], observer=kill)
    bench.happened += len(killed)
    bench.killed += len(killed)


def unreliable_storage(bench: Bench, _: int) -> None:
    storage.register()
    bench.job([], lake=f"unreliable://{bench.lake}")


def full_disk(bench: Bench, number: int) -> None:
    """Put the lake on a file system that is too small for it, then make that larger."""
    bench.lake.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={64 + 40 * number}k", "tmpfs", bench.lake], check=True)
    try:
        with contextlib.suppress(ActionlakeError):
            bench.job([])
            raise AssertionError("the disk was large enough")
        bench.happened += 1
        subprocess.run(["mount", "-o", "remount,size=100m", bench.lake], check=True)
        bench.job([])
    finally:
        target = bench.lake.with_name(f"{bench.lake.name}-copy")
        subprocess.run(["cp", "-a", bench.lake, target], check=True)
        subprocess.run(["umount", bench.lake], check=True)
        bench.lake = target


def out_of_memory(bench: Bench, number: int) -> None:
    """A worker eats memory until Ray, whose threshold is a little above what is used, kills it."""
    if ray.is_initialized():
        ray.shutdown()
    memory = psutil.virtual_memory()
    share = (memory.total - memory.available + (3 << 30)) / memory.total
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="FATAL",
        object_store_memory=256 << 20, runtime_env=faults.RUNTIME_ENV,
        _system_config={"memory_usage_threshold": share, "memory_monitor_refresh_ms": 50},
    )  # fmt: skip
    bench.job([Fault("extract", "eat memory", calls=[5 + 4 * number])])
    ray.shutdown()


BLOCKED = "hang and hold the interpreter"
SLOW = replace(CONFIG, deadline_base_s=3.0, deadline_per_s=0.0, worker_memory_gb=2.0)
KINDS = [
    in_workers("worker killed while a file is probed", Fault("probe", calls=[1, 4])),
    in_workers("worker killed before a chunk is decoded", Fault("decode", calls=[3, 10, 17, 24])),
    in_workers("worker killed with a chunk decoded", Fault("decode", calls=[3, 10, 17, 24], after=True)),
    in_workers("worker killed while embedding", Fault("extract", calls=[2, 9, 16, 23])),
    in_workers("worker killed with features half written", Fault("rename", calls=[4, 11, 18, 25], match="/_work/")),
    in_workers("worker killed with features written, not told", Fault("write", calls=[4, 11, 18, 25], after=True)),
    in_workers("worker segfaults", Fault("decode", "segfault", calls=[5, 14, 23])),
    in_workers("worker hangs", Fault("decode", "hang", calls=[6, 20]), config=SLOW),
    in_workers("worker hangs in C, interpreter blocked", Fault("decode", BLOCKED, calls=[6, 20]), config=SLOW),
    in_workers("worker spins", Fault("decode", "spin", calls=[6, 20]), config=SLOW),
    in_workers("worker eats memory", Fault("decode", "eat memory", calls=[6, 20]), config=SLOW),
    Kind("machine out of memory: Ray kills the worker", out_of_memory),
    in_workers("decoder of the split layout killed", Fault("decode", calls=[3, 12, 21]), config=SPLIT),
    in_workers("GPU actor of the split layout killed", Fault("extract", calls=[1, 2, 3]), config=SPLIT),
    in_workers("GPU actor killed with features written", Fault("write", calls=[5, 14, 23], after=True), config=SPLIT),
    in_workers("classifier killed before a shard", Fault("commit", calls=[1, 3, 5])),
    in_workers("classifier killed amid a shard", Fault("commit video", calls=[2, 5, 8])),
    in_workers("classifier killed between tables", Fault("rename", calls=[1, 3, 4], match="/segments/")),
    in_workers("classifier killed before the commit", Fault("rename", calls=[1, 3, 4], match="/videos/")),
    in_workers("classifier killed after the commit", Fault("rename", calls=[1, 2], match="/videos/", after=True)),
    in_workers("classifier killed before it tells", Fault("commit", calls=[1, 2], after=True)),
    in_workers("ledger killed", Fault("ledger", calls=[4, 14, 24])),
    Kind("fork server of the workers killed, then a worker", fork_server_killed),
    in_workers("disk fails for a moment", Fault("rename", "fail", calls=[3, 9, 15, 30])),
    Kind("storage fails one in five writes, stalls in one of 31", unreliable_storage),
    Kind("disk full", full_disk),
    on_nodes("node dies", comes_back=False),
    on_nodes("node dies, another comes", comes_back=True),
    on_command("driver killed while planning", [-9], stage="planning", do="SIGKILL"),
    on_command("driver killed while extracting", [-9], chunks=3, do="SIGKILL"),
    on_command("driver killed after a commit", [-9], videos=2, do="SIGKILL"),
    on_command("all processes killed at one blow", [-9], chunks=5, do="tree"),
    on_command("Ray's node killed", [1], chunks=3, do="raylet"),
    on_command("Ctrl-C", [130], kills=0, chunks=3, do="SIGINT"),
    on_command("SIGTERM", [143], kills=0, chunks=3, do="SIGTERM"),
    on_command("Ctrl-C twice", [130], kills=0, chunks=3, do="SIGINT", twice=True),
]  # fmt: skip


ON_RAY = ("Ray", "node", "ledger", "split layout", "GPU actor")
"""Parts of the names of kinds that only Ray knows."""
ON_LOCAL = ("fork server",)
"""The same of the local engine."""


def compare(lake: Path, quiet: Path) -> tuple[int, int]:
    """Return how many rows are lost and how many doubled, or otherwise too many; all columns count."""
    lost = doubled = 0
    for table in TABLES:
        here, there = rows(lake, table), rows(quiet, table)
        if here.equals(there):
            continue
        mine, theirs = ([repr(row) for row in t.to_pylist()] for t in (sort(here), sort(there)))
        lost += len([row for row in theirs if row not in set(mine)])
        doubled += len(mine) - len({row for row in mine if row in set(theirs)})
    return lost, doubled


def sort(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in ("video_id",)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("ray", "local"), default="ray")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("reliability.json"))
    options = parser.parse_args()
    elsewhere = ON_RAY if options.engine == "local" else ON_LOCAL
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.engine)
        bench.lake = bench.quiet
        bench.job([])
        bench.next_trial(0)
        started = time.monotonic()
        bench.job([])
        quiet_s = {"job": time.monotonic() - started}
        number = 1
        for kind in KINDS:
            if options.only not in kind.name or any(part in kind.name for part in elsewhere):
                continue
            outcome = Outcome(kind.name)
            for trial in range(options.trials):
                bench.next_trial(number)
                number += 1
                started = time.monotonic()
                kind.trial(bench, trial)
                outcome.extra_s.append(time.monotonic() - started - quiet_s["job"])
                lost, doubled = compare(bench.lake, bench.quiet)
                outcome.trials += 1
                outcome.faults += bench.happened
                outcome.kills += bench.killed
                outcome.rows_lost += lost
                outcome.left_behind += len(leftovers(bench.lake))
                outcome.rows_doubled += doubled
                outcome.chunks_again += max(0, len(faults.chunks_decoded(bench.faults)) - N_CHUNKS)
            outcomes.append(outcome)
            print(table_row(outcome), flush=True)
            record = {
                "quiet_s": quiet_s["job"],
                "cpus": os.cpu_count(),
                "outcomes": [asdict(each) for each in outcomes],
            }
            options.out.write_text(json.dumps(record, indent=1))
    total = [sum(getattr(each, name) for each in outcomes) for name in ("trials", "faults", "kills", "rows_lost")]
    print(f"{len(outcomes)} kinds, {total[0]} trials, {total[1]} faults, {total[2]} kills, {total[3]} rows lost")


def table_row(outcome: Outcome) -> str:
    longest = max(outcome.extra_s)
    cells = (
        outcome.fault, outcome.trials, outcome.faults, outcome.kills, outcome.rows_lost, outcome.rows_doubled,
        outcome.left_behind, outcome.chunks_again, f"{longest:.0f} s",
    )  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    main()
