"""Network layers as OpenVINO operations, built from NumPy weights without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as ops

from pipeline.errors import UsageError

Grid = Any
"""A node of a graph that gives `float32 [N, C, H, W]`; a type checker does not know OpenVINO's types."""
Activation = Callable[[Grid], Grid]


class Layers:
    """Builds layers from weights, which have the names that PyTorch gives them."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], eps: float) -> None:
        """Take weights.

        Args:
            weights: Weights by name. A layer reads the weights whose names begin with the layer's name.
            eps: Batch norms add it to the variance; it is not among the weights that PyTorch stores.
        """
        self._weights, self._eps = weights, eps
        # The number of batches that a norm has seen matters only in training.
        self._unread = {name for name in weights if not name.endswith(".num_batches_tracked")}

    def __contains__(self, name: str) -> bool:
        """Whether there are weights of this name."""
        return name in self._weights

    def read(self, name: str) -> NDArray[np.float64]:
        """Return weights.

        Raises:
            UsageError: No weights have this name.
        """
        if name not in self._weights:
            raise UsageError(f"weights {name} are missing")
        self._unread.discard(name)
        return self._weights[name].astype(np.float64)

    def unread(self) -> list[str]:
        """Return the names of the weights that no layer has read, in order."""
        return sorted(self._unread)

    def convolution(
        self,
        x: Grid,
        name: str,
        norm: str | None = None,
        stride: int = 1,
        pads: tuple[int, int] | None = None,
        activation: Activation | None = None,
    ) -> Grid:
        """Return a convolution, with its bias if it has one.

        Args:
            x: The input.
            name: Name of the convolution. If its filters have one channel, it is depthwise.
            norm: Name of the batch norm after it, which is folded into the filters.
            stride: Stride on both axes.
            pads: Zeros before and after each axis. None: as many as keep the size at stride 1.
            activation: Applied to the result.
        """
        filters = self.read(f"{name}.weight")
        bias = self.read(f"{name}.bias") if f"{name}.bias" in self else np.zeros(len(filters))
        if norm is not None:
            scale, shift = self._norm(norm)
            filters, bias = filters * scale[:, None, None, None], bias * scale + shift
        before, after = pads or (filters.shape[2] // 2,) * 2
        convolve = ops.convolution
        if filters.shape[1] == 1:
            convolve, filters = ops.group_convolution, filters[:, None]
        y = convolve(x, constant(filters), [stride] * 2, [before] * 2, [after] * 2, [1, 1])
        if bias.any():
            y = ops.add(y, constant(bias[None, :, None, None]))
        return activation(y) if activation else y

    def norm(self, x: Grid, name: str) -> Grid:
        """Return a batch norm that stands alone."""
        scale, shift = (constant(values[:, None, None]) for values in self._norm(name))
        return ops.add(ops.multiply(x, scale), shift)

    def linear(self, x: Any, name: str) -> Any:
        """Return a fully connected layer: `float32 [N, C]` to `float32 [N, D]`."""
        y = ops.matmul(x, constant(self.read(f"{name}.weight")), False, True)
        return ops.add(y, constant(self.read(f"{name}.bias")))

    def _norm(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the factor by which a batch norm multiplies each channel, and the offset that it then adds."""
        scale = self.read(f"{name}.weight") / np.sqrt(self.read(f"{name}.running_var") + self._eps)
        return scale, self.read(f"{name}.bias") - scale * self.read(f"{name}.running_mean")


def constant(values: Any) -> Any:
    """Return values as a constant node, `float32`."""
    return ops.constant(np.asarray(values, np.float32))


def relu6(x: Grid) -> Grid:
    """Return values clipped to the range 0 to 6."""
    return ops.clamp(x, 0.0, 6.0)


def silu(x: Grid) -> Grid:
    """Return values times their sigmoid."""
    return ops.swish(x)


def enlarged(x: Grid, mode: str) -> Grid:
    """Return a map of twice the height and width.

    Args:
        x: The map to enlarge.
        mode: `nearest` or `bilinear`, as PyTorch's `interpolate` does them.
    """
    modes = {"nearest": ("nearest", "asymmetric"), "bilinear": ("linear_onnx", "pytorch_half_pixel")}
    how, coordinates = modes[mode]
    return ops.interpolate(
        x,
        np.array([2, 2], np.float32),
        how,
        "scales",
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor",
        axes=np.array([2, 3]),
    )


def pooled(x: Grid, side: int) -> Grid:
    """Return the maximum of the square around each place; `side` is the square's side in places."""
    around = [side // 2] * 2
    # The second output, the position of each maximum, is not used.
    return ops.max_pool(x, [1, 1], [1, 1], around, around, [side] * 2, axis=2).output(0)


def joined(parts: Sequence[Any], axis: int = 1) -> Any:
    """Return nodes concatenated along channels, or along another axis."""
    return ops.concat([*parts], axis)


def reshaped(x: Any, *shape: int) -> Any:
    """Reshape a node `[N, ...]` to `[N, *shape]`; one side may be -1, which is computed from the others."""
    return ops.reshape(x, np.array([0, *shape]), special_zero=True)
