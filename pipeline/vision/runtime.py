"""Choose the device and the precision of networks, and keep exported networks on the node."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.errors import UsageError
from pipeline.extras import is_installed, require

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """Where and how networks compute."""

    device: str
    """`cpu` or `cuda`."""
    precision: str
    """`f32`, `bf16` or `f16`."""
    threads: int = 1
    """Threads of one network on a CPU. The default is one, because many workers run side by side."""

    def openvino_options(self) -> dict[str, Any]:
        """Return OpenVINO's options for compiling a network."""
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
            # With pinning, the threads of two processes land on the same core.
            "ENABLE_CPU_PINNING": False,
        }

    def autocast(self) -> torch.autocast:
        """Return the context in which PyTorch computes in this precision."""
        import torch

        dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[self.precision]
        return torch.autocast(torch.device(self.device).type, dtype, dtype != torch.float32)


def choose_runtime(device: str = "auto", precision: str = "auto", threads: int = 1) -> Runtime:
    """Choose the device and the precision of this node, and log the choice once.

    `auto` chooses the GPU that the process may use, if any. The precision is then f16. On a CPU, it is bf16 if the
    processor multiplies it natively (AVX-512 BF16 or AMX), else f32.

    Raises:
        UsageError: `cuda` is requested without a usable GPU, or `f16` is requested on a CPU.
    """
    if device == "cuda":
        require("torch", "device = 'cuda'")
    has_gpu = device != "cpu" and _cuda_available()
    if device == "cuda" and not has_gpu:
        raise UsageError("device = 'cuda', but PyTorch finds no usable GPU here; use device = 'auto' or 'cpu'")
    chosen_device = "cuda" if has_gpu else "cpu"
    if precision == "auto":
        precision = "f16" if has_gpu else "bf16" if cpu_has_bf16() else "f32"
    if precision == "f16" and not has_gpu:
        raise UsageError("precision = 'f16' needs a GPU; use bf16 or f32 on a CPU")
    runtime = Runtime(chosen_device, precision, threads)
    _log_once(f"networks run on {chosen_device} in {precision}, {'PyTorch' if has_gpu else 'OpenVINO'}")
    return runtime


def training_threads() -> int:
    """Return the number of threads of a training on a CPU: `$OMP_NUM_THREADS`, or all cores if it is not set."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@functools.cache
def _log_once(message: str) -> None:
    log.info(message)


def _cuda_available() -> bool:
    # Importing PyTorch costs every worker two seconds and 400 MB. Without a GPU driver it is not needed.
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not _gpu_driver_present() or not is_installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def _gpu_driver_present() -> bool:
    """Whether this machine looks as if it had an NVIDIA GPU."""
    return sys.platform != "linux" or any(Path(path).exists() for path in _GPU_DRIVERS)


def limit_gpu_memory(share: float) -> None:
    """Limit this process to its share of the GPU's memory, because the other processes size their batches by the rest.

    Args:
        share: Above 0, below 1. Nothing is done where there is no GPU.
    """
    if _cuda_available():
        import torch

        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share / 2, share - _GPU_CONTEXT_BYTES / total_bytes))


# GPU memory that each process takes in addition to its computations.
_GPU_CONTEXT_BYTES = 512 << 20
_GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 natively."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def cache_dir() -> Path:
    """Return the node's folder for exported models: `$ACTIONLAKE_CACHE`, or `actionlake` in the user's cache folder."""
    chosen = os.environ.get("ACTIONLAKE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "actionlake"


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, and rename it to `target` in one step afterwards."""
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        yield scratch
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def exported(name: str, fingerprint: str, export: Callable[[Path], None]) -> Path:
    """Return the folder of an exported model, exporting it first if no process of this node has done so.

    Args:
        name: What the model is called; part of the folder's name.
        fingerprint: Whatever the export depends on: weights, sizes.
        export: Fills the given empty folder. It runs under a lock, once per node.
    """
    key = hashlib.sha256(f"{fingerprint}|{version('openvino')}".encode()).hexdigest()[:12]
    target = cache_dir() / f"{name}-{key}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            log.info("exporting %s to %s", name, target)
            with _new_folder(target) as folder:
                export(folder)
    return target


def export_in_subprocess(module: str, *arguments: str) -> None:
    """Run `python -m module arguments`, so that the calling worker does not keep PyTorch in memory after an export."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{module} failed")
