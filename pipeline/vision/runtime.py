"""Run networks fast where they are: OpenVINO on a CPU, PyTorch on a GPU; the precision by what the processor has."""

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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.stopwatch import Stopwatch

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
    """Threads of one network on a CPU. One, since many workers run side by side."""

    @property
    def batch_size(self) -> int:
        """Images per pass: few on a CPU, whose cache they must fit, many on a GPU."""
        return 2 if self.device == "cpu" else 64


def choose_runtime(device: str = "auto", precision: str = "auto", threads: int = 1) -> Runtime:
    """Choose the device and the precision of this node, and log the choice once.

    `auto` takes the GPU that the process may use, if any, and there f16; on a CPU bf16 where the processor multiplies
    it natively (AVX-512 BF16 or AMX), else f32.

    Raises:
        UsageError: `cuda` is asked for and there is no usable GPU, or `f16` on a CPU.
    """
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


@functools.cache
def _log_once(message: str) -> None:
    log.info(message)


def _cuda_available() -> bool:
    # Asking PyTorch costs two seconds and 400 MB in every worker; without a driver it need not be asked.
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not gpu_driver_present():
        return False
    import torch

    return torch.cuda.is_available()


def gpu_driver_present() -> bool:
    """Whether this machine looks as if it had an NVIDIA GPU."""
    return sys.platform != "linux" or any(Path(path).exists() for path in _GPU_DRIVERS)


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
    """Yield a folder to fill, which then becomes `target` at once."""
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
    import openvino

    key = hashlib.sha256(f"{fingerprint}|{openvino.__version__}".encode()).hexdigest()[:12]
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
    """Run `python -m module arguments`: an export needs PyTorch, which the calling worker need not keep in memory."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{module} failed")


class ImageNetwork:
    """A network from images to one array: `uint8 [N, H, W, 3]` in, `float32 [N, ...]` out."""

    def __init__(
        self,
        runtime: Runtime,
        load_openvino: Callable[[], Path],
        load_torch: Callable[[], torch.nn.Module],
        mean: tuple[float, ...],
        scale: tuple[float, ...],
    ) -> None:
        """Prepare to compile for whatever image size comes first.

        Args:
            runtime: Where and how to compute.
            load_openvino: Returns the path of the exported network, `float32 [N, 3, H, W]` in.
            load_torch: Returns the same network as a module.
            mean: Subtracted from each channel, in units of 0 to 255.
            scale: Divides each channel then.
        """
        self.runtime = runtime
        self.busy = Stopwatch()
        """How long the network itself has computed, without what is done before and after."""
        self._mean, self._scale = mean, scale
        self._load_openvino, self._load_torch = load_openvino, load_torch
        self._compiled: dict[tuple[int, int], Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {}

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute in batches of the runtime's size; the last one is filled up, so that shapes never change."""
        size = self.runtime.batch_size
        run = self._for_size((images.shape[1], images.shape[2]))
        outputs = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            n = len(batch)
            if n < size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - n, axis=0)])
            with self.busy:
                outputs.append(run(np.ascontiguousarray(batch))[:n])
        return np.concatenate(outputs)

    def _for_size(self, size: tuple[int, int]) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        on_cpu = self.runtime.device == "cpu"
        # PyTorch takes any size with one network.
        key = size if on_cpu else (0, 0)
        if key not in self._compiled:
            # Archives hold few sizes; a hostile one shall not fill the memory with compiled networks.
            if len(self._compiled) >= _MAX_COMPILED:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[key] = self._compile_openvino(size) if on_cpu else self._compile_torch()
        return self._compiled[key]

    def _compile_openvino(self, size: tuple[int, int]) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        import openvino as ov
        from openvino.preprocess import PrePostProcessor

        core = ov.Core()
        model = core.read_model(self._load_openvino())
        model.reshape([self.runtime.batch_size, 3, *size])
        graph = PrePostProcessor(model)
        graph.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        graph.input().model().set_layout(ov.Layout("NCHW"))
        steps = graph.input().preprocess().convert_element_type(ov.Type.f32)
        steps.mean(list(self._mean)).scale(list(self._scale))
        compiled = core.compile_model(
            graph.build(),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": self.runtime.precision,
                "INFERENCE_NUM_THREADS": self.runtime.threads,
                "NUM_STREAMS": 1,
                # Pinned, the threads of two processes land on the same core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        request = compiled.create_infer_request()

        def run(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.array(request.infer({0: batch}, share_inputs=True, share_outputs=True)[0])

        return run

    def _compile_torch(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        import torch

        device = torch.device(self.runtime.device)
        dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[self.runtime.precision]
        module = self._load_torch().eval().to(device).to(memory_format=torch.channels_last)
        mean = torch.tensor(self._mean, device=device).view(1, -1, 1, 1)
        scale = torch.tensor(self._scale, device=device).view(1, -1, 1, 1)

        @torch.inference_mode()
        def run(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            pixels = torch.from_numpy(batch)
            if device.type == "cuda":
                pixels = pixels.pin_memory()
            # NHWC memory seen as NCHW is channels_last already: nothing is copied.
            x = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
            x = (x.float() - mean) / scale
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                output = module(x)
            values: NDArray[np.float32] = output.float().cpu().numpy()
            return values

        return run


_MAX_COMPILED = 8
