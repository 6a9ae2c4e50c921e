"""What the cluster has, and how the job uses it."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.config import Config
from pipeline.engine.interrupts import StopRequest
from pipeline.engine.job import choose_classifiers
from pipeline.errors import ActionlakeError, UsageError

log = logging.getLogger(__name__)

# Receipts are small and frames pass through only in the split layout, so a laptop need not reserve much.
_LOCAL_STORE_BYTES = 512 << 20
# The other work of an extractor, mainly crops and flow, keeps more than one core busy, but not a large GPU. Four
# extractors were 2.4 times as fast as one.
_GPUS_PER_EXTRACTOR = 0.25
# The start and the end of a job take some of the time. No advice can shorten them.
_TOLERATED_IDLE = 0.2


@dataclass(frozen=True)
class Layout:
    """How many actors do what."""

    kind: str
    """`fused` or `split`."""
    decoders: int
    """Actors that decode; in the fused layout they extract, too."""
    extractors: int
    """Actors that only extract; 0 in the fused layout."""
    gpus_per_actor: float
    """GPUs of each actor that extracts; 0 if networks run on CPUs."""
    classifiers: int

    def advice(self, stage_s: Mapping[str, float], wall_s: float, sampling: str) -> str:
        """Return what would keep the GPUs busy if they waited for decoders, else an empty text.

        Args:
            stage_s: Seconds of work by stage, summed over actors.
            wall_s: Seconds that the whole extraction took.
            sampling: `exact` or `fast`.
        """
        extract_s = stage_s["detect"] + stage_s["embed"] + stage_s["write"]
        if self.kind == "fused" or not self.gpus_per_actor or not extract_s:
            return ""
        idle = 1 - extract_s / (self.extractors * wall_s)
        decoding = stage_s["decode"] / (self.decoders * wall_s)
        if idle < _TOLERATED_IDLE or decoding < 1 - _TOLERATED_IDLE:
            return ""
        # So many decoders are as fast as GPUs that never wait.
        wanted = math.ceil(stage_s["decode"] / (extract_s / self.extractors))
        others = " or use sampling = 'fast'" if sampling == "exact" else ""
        return f"GPUs idle {idle:.0%}: add {wanted - self.decoders} CPU cores{others}"

    def __str__(self) -> str:
        on_gpu = f" on {self.gpus_per_actor:g} GPU each" if self.gpus_per_actor else ""
        if self.kind == "fused":
            return f"fused: {self.decoders} workers decode and extract{on_gpu}, {self.classifiers} label"
        return f"split: {self.decoders} workers decode, {self.extractors} extract{on_gpu}, {self.classifiers} label"


@contextmanager
def joined(address: str | None, config: Config, stop: StopRequest) -> Iterator[None]:
    """Run a block on a Ray cluster, or with Ray on this machine. Errors of Ray become an `ActionlakeError`.

    Ctrl-C and SIGTERM still request a stop, although Ray installs its own handlers.

    Raises:
        ActionlakeError: There is no such cluster, or the work on it can't go on.
    """
    started_here = connect(address, config)
    stop.take_over()
    with _errors_told(started_here):
        yield


@contextmanager
def _errors_told(started_here: bool) -> Iterator[None]:
    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ActionlakeError):
            raise cause from error
        log.info("the cause", exc_info=error)
        raise ActionlakeError(
            f"the job stopped ({type(cause).__name__}: {' '.join(str(cause).split())}); what is finished is kept, "
            "and the same command goes on from there; -v shows where it happened"
        ) from error
    finally:
        if started_here:
            ray.shutdown()


def connect(address: str | None, config: Config) -> bool:
    """Join the cluster at `address` or `$RAY_ADDRESS`, or start Ray on this machine. Return whether Ray was started.

    Raises:
        ActionlakeError: No cluster answers at the address, or Ray does not start.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    # Nobody asked for Ray's own usage report, and an edge node has no network for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if os.environ.get("ACTIONLAKE_LOGS") == "json":
        common["logging_config"] = ray.LoggingConfig(encoding="JSON")
    if address:
        _check_answers(address)
        try:
            with _quiet_core():
                ray.init(address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            # Ray tells of a missing token only in the cause of the cause.
            if "InvalidAuthToken" in "".join(traceback.format_exception(error)):
                raise token_wanted(address) from error
            raise ActionlakeError(
                f"no Ray cluster answers at {address} ({error}); check --address and RAY_ADDRESS"
            ) from error
        return False
    try:
        with _quiet_core():
            ray.init(
                address="local",
                num_cpus=config.workers,
                include_dashboard=False,
                object_store_memory=_LOCAL_STORE_BYTES * (8 if config.layout == "split" else 1),
                **common,
            )
    except Exception as error:  # Ray raises nothing more specific if its node does not come up.
        raise ActionlakeError(
            f"Ray did not start on this machine ({' '.join(str(error).split())}); the same command tries it again, and "
            "--engine local needs no Ray"
        ) from error
    return True


def token_wanted(address: str) -> ActionlakeError:
    """Return the error for a cluster that refuses this process because it has no token, or a wrong one."""
    return ActionlakeError(
        f"{address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to that of the cluster"
    )


def _check_answers(address: str) -> None:
    """Raise if nothing listens at `host:port` or `ray://host:port`. Ray itself would keep trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ActionlakeError(
            f"no Ray cluster answers at {address} ({error}); check --address and RAY_ADDRESS"
        ) from error


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Keep Ray's C++ core from writing to the terminal. It complains about how Ray Data itself starts actors.

    Real errors come as Python exceptions. The core reads its log level at its start, and says so on file descriptor 2.
    """
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    sys.stderr.flush()
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
        del os.environ["RAY_BACKEND_LOG_LEVEL"]


@dataclass(frozen=True)
class _Node:
    cpus: int
    gpus: float

    def holds(self, gpus_per_actor: float) -> int:
        """Return how many actors its GPUs hold. A fraction of a GPU is always on one GPU."""
        if gpus_per_actor < 1:
            return int(self.gpus) * int(1 / gpus_per_actor)
        return int(self.gpus // gpus_per_actor)


def choose_layout(config: Config) -> Layout:
    """Choose the layout by what the cluster has, and log it.

    Raises:
        UsageError: The options ask for a GPU where none can be had.
        ActionlakeError: The cluster does not have what the configuration asks for.
    """
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [_Node(int(each.get("CPU", 0)), float(each.get("GPU", 0))) for each in resources]
    with_gpus = [node for node in nodes if node.gpus and config.device != "cpu"]
    kind = config.layout
    if kind == "auto":
        # Frames leave their process only if they must.
        kind = "split" if with_gpus and any(node.cpus and not node.gpus for node in nodes) else "fused"
    fused_on_gpus = bool(with_gpus) and kind == "fused"
    cpus = sum(node.cpus for node in (with_gpus if fused_on_gpus else nodes))
    wanted = config.workers or cpus
    if wanted < 1:
        raise ActionlakeError(
            "the cluster has no CPU to decode with; add a worker node, or set --workers to how many to wait for"
        )
    if wanted > cpus:
        log.warning("workers = %d, but the cluster has %d CPUs; the others start when nodes come", wanted, cpus)
    share = config.gpus_per_actor or (_share_of_all(with_gpus, wanted) if fused_on_gpus else _GPUS_PER_EXTRACTOR)
    n_holding = sum(node.holds(share) for node in with_gpus)
    if not n_holding and config.device == "cuda":
        raise UsageError(
            f"device = 'cuda' needs gpus_per_actor = {share:g} GPUs on one node; "
            f"the cluster has {sum(node.gpus for node in nodes):g}"
        )
    if not n_holding and config.precision == "f16":
        raise UsageError("precision = 'f16' needs a GPU; use bf16 or f32 on CPUs")
    if kind == "fused":
        n_extractors = 0
        if n_holding and not config.workers:
            wanted = min(wanted, n_holding)
    else:
        n_extractors = n_holding or 1
    n_classifiers = choose_classifiers(config, wanted)
    layout = Layout(kind, wanted, n_extractors, share if n_holding else 0.0, n_classifiers)
    log.info("layout %s", layout)
    return layout


def _share_of_all(nodes: Sequence[_Node], n_workers: int) -> float:
    """Return the largest share of a GPU that gives one to each worker of the node with the most CPUs per GPU.

    Ray counts shares of GPUs in ten-thousandths.
    """
    most = max(math.ceil(min(n_workers, node.cpus) / node.gpus) for node in nodes)
    return math.floor(10_000 / max(1, most)) / 10_000


def cluster_has_gpus(n: int) -> bool:
    """Whether the cluster that is joined has `n` GPUs."""
    return float(ray.cluster_resources().get("GPU", 0)) >= n
