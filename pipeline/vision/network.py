"""Run networks fast: by OpenVINO on a CPU, by PyTorch on a GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.stopwatch import Stopwatch
from pipeline.vision.runtime import Runtime

if TYPE_CHECKING:
    import torch

Image = NDArray[np.uint8]
"""`uint8 [H, W, 3]`, RGB."""
Place = Callable[[Image, Image], None]
"""Writes an image, resized, into a network's input: `place(image, target)`."""

# A few images stay in a processor's cache from the resizing to the first layers; larger batches are up to 10 % slower.
_CPU_BATCH = 2
_MOST_GPU_BATCH = 256
# One core can't resize people as fast as a GPU embeds them.
_PLACING_THREADS = 4
# An archive holds few sizes; the limit keeps a hostile one from filling the memory with compiled networks.
_MAX_COMPILED = 8


class ImageNetwork:
    """A network from images to one array, `float32 [N, ...]`."""

    def __init__(
        self,
        runtime: Runtime,
        load_openvino: Callable[[], Path],
        load_torch: Callable[[], torch.nn.Module],
        mean: tuple[float, ...],
        scale: tuple[float, ...],
    ) -> None:
        """Prepare the network, which is compiled for each image size at its first use.

        Args:
            runtime: Where and how to compute.
            load_openvino: Returns the path of the exported network, `float32 [N, 3, H, W]` in.
            load_torch: Returns the same network as a module.
            mean: Subtracted from each channel, in units of 0 to 255.
            scale: Divides each channel after the subtraction.
        """
        self.busy = Stopwatch()
        """Time spent in the network itself, without pre- and post-processing."""
        self._runtime, self._mean, self._scale = runtime, mean, scale
        self._load_openvino, self._load_torch = load_openvino, load_torch
        self._module: torch.nn.Module | None = None
        self._compiled: dict[tuple[int, int], _Compiled] = {}

    def __call__(self, images: Sequence[Image], size: tuple[int, int], place: Place) -> Iterator[NDArray[np.float32]]:
        """Compute in batches, each of which is built just before it is needed, and yield the output of each.

        Args:
            images: Images of any sizes.
            size: Height and width of the network's input.
            place: Writes an image into its part of a batch, `uint8 [*size, 3]`, and overwrites all of that part.
        """
        network = self._for_size(size)
        batches = [images[start : start + network.batch_size] for start in range(0, len(images), network.batch_size)]
        yield from network.run(batches, place, self.busy)

    def _for_size(self, size: tuple[int, int]) -> _Compiled:
        if size not in self._compiled:
            if len(self._compiled) >= _MAX_COMPILED:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[size] = self._compile(size)
        return self._compiled[size]

    def _compile(self, size: tuple[int, int]) -> _Compiled:
        if self._runtime.device == "cpu":
            return OpenVinoNetwork(self._load_openvino(), self._runtime, size, self._mean, self._scale)
        # PyTorch takes any size with one network.
        self._module = self._module or self._load_torch()
        return TorchNetwork(self._module, self._runtime, size, self._mean, self._scale)


class _Compiled(ABC):
    """A network prepared for one image size."""

    batch_size: int
    """Images per pass."""

    @abstractmethod
    def run(self, batches: Sequence[Sequence[Image]], place: Place, busy: Stopwatch) -> Iterator[NDArray[np.float32]]:
        """Yield the output of each batch; the last batch may hold fewer images."""


class OpenVinoNetwork(_Compiled):
    """A network on a CPU."""

    def __init__(
        self, path: Path, runtime: Runtime, size: tuple[int, int], mean: tuple[float, ...], scale: tuple[float, ...]
    ) -> None:
        """Compile the network at `path`; conversion, mean and scale become part of it."""
        import openvino as ov
        from openvino.preprocess import PrePostProcessor

        self.batch_size = _CPU_BATCH
        core = ov.Core()
        model = core.read_model(path)
        model.reshape([self.batch_size, 3, *size])
        graph = PrePostProcessor(model)
        graph.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        graph.input().model().set_layout(ov.Layout("NCHW"))
        steps = graph.input().preprocess().convert_element_type(ov.Type.f32)
        steps.mean(list(mean)).scale(list(scale))
        compiled = core.compile_model(graph.build(), "CPU", runtime.openvino_options() | {"NUM_STREAMS": 1})
        self._request = compiled.create_infer_request()
        self._input = np.zeros((self.batch_size, *size, 3), np.uint8)
        self._request.set_input_tensor(ov.Tensor(self._input, shared_memory=True))

    def run(self, batches: Sequence[Sequence[Image]], place: Place, busy: Stopwatch) -> Iterator[NDArray[np.float32]]:
        """Yield the output of each batch."""
        for batch in batches:
            # A short batch keeps old images in its unused part. They are computed in vain, but a fixed shape is
            # faster, and images do not influence each other.
            for image, target in zip(batch, self._input, strict=False):
                place(image, target)
            with busy:
                self._request.infer()
            yield np.array(self._request.get_output_tensor(0).data[: len(batch)])


class TorchNetwork(_Compiled):
    """A network on a GPU; while it computes a batch, the next one is built and copied there."""

    def __init__(
        self,
        module: torch.nn.Module,
        runtime: Runtime,
        size: tuple[int, int],
        mean: tuple[float, ...],
        scale: tuple[float, ...],
    ) -> None:
        """Move a network to the device, and find the largest batch size that fits."""
        import torch

        self._device = torch.device(runtime.device)
        self._runtime = runtime
        self._module = module.eval().to(self._device).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(mean, device=self._device).view(1, -1, 1, 1)
        self._scale = torch.tensor(scale, device=self._device).view(1, -1, 1, 1)
        self.batch_size = self._largest_batch(size)
        placing = ThreadPoolExecutor(_PLACING_THREADS)
        self._slots = [_Slot(self.batch_size, size, self._device, placing) for _ in range(2)]

    def run(self, batches: Sequence[Sequence[Image]], place: Place, busy: Stopwatch) -> Iterator[NDArray[np.float32]]:
        """Yield the output of each batch."""
        waiting: list[_Slot] = []
        for number, batch in enumerate(batches):
            if len(waiting) == len(self._slots):
                with busy:
                    outputs = waiting.pop(0).take()
                yield outputs
            slot = self._slots[number % len(self._slots)]
            slot.put(batch, place, self._compute)
            waiting.append(slot)
        for slot in waiting:
            with busy:
                outputs = slot.take()
            yield outputs

    def _compute(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode(), self._runtime.autocast():
            # NHWC memory seen as NCHW is channels_last already: nothing is copied.
            x = (pixels.permute(0, 3, 1, 2).float() - self._mean) / self._scale
            outputs: torch.Tensor = self._module(x)
            return outputs.float()

    def _largest_batch(self, size: tuple[int, int]) -> int:
        """Find by trial how many images of a size fit the device's memory; return a power of two."""
        import torch

        n = _MOST_GPU_BATCH
        while True:
            try:
                self._compute(torch.zeros((n, *size, 3), dtype=torch.uint8, device=self._device))
                return n
            except torch.OutOfMemoryError:
                if n == 1:
                    raise
                n //= 2
                torch.cuda.empty_cache()


class _Slot:
    """A batch on its way to the device, through it and back. Its pinned memory is copied asynchronously."""

    def __init__(self, n: int, size: tuple[int, int], device: torch.device, placing: ThreadPoolExecutor) -> None:
        import torch

        self._device, self._placing = device, placing
        self._input = torch.zeros((n, *size, 3), dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._targets = self._input.numpy()
        self._output: torch.Tensor | None = None
        self._done = torch.Event(device) if device.type == "cuda" else None
        self._n = 0

    def put(self, batch: Sequence[Image], place: Place, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        import torch

        self._n = len(batch)

        def place_every_nth(first: int) -> None:
            for number in range(first, len(batch), _PLACING_THREADS):
                place(batch[number], self._targets[number])

        # OpenCV releases the interpreter's lock to resize; an exception in a thread is raised again here.
        for _ in self._placing.map(place_every_nth, range(_PLACING_THREADS)):
            pass
        # The batch size is rounded up to a power of two. With few shapes, kernels are chosen once for each, and memory
        # is reused.
        n = 1 << (self._n - 1).bit_length()
        outputs = compute(self._input[:n].to(self._device, non_blocking=True))
        if self._output is None:
            shape = len(self._input), *outputs.shape[1:]
            self._output = torch.empty(shape, dtype=outputs.dtype, pin_memory=self._done is not None)
        self._output[:n].copy_(outputs, non_blocking=True)
        if self._done is not None:
            self._done.record()

    def take(self) -> NDArray[np.float32]:
        """Wait until the batch is computed, and return its output."""
        if self._done is not None:
            self._done.synchronize()
        assert self._output is not None
        return np.array(self._output[: self._n].numpy())
