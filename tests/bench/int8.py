"""Measure the gain of int8 for the CNN, quantised by NNCF on real frames, beside f32 and bf16, on one thread.

    pip install nncf
    python -m tests.bench.int8 ../shared/data

The CNN is calibrated on frames of JHMDB and on their changes to the next frames. It is compared on frames of GMDCSA24.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import nncf
import numpy as np
import openvino as ov

from pipeline.stopwatch import Stopwatch
from pipeline.vision.embedder import Embedder, _stretch
from pipeline.vision.network import Image, OpenVinoNetwork
from pipeline.vision.runtime import Runtime, cpu_has_bf16

N_CALIBRATION, N_COMPARED = 300, 200
PX = 224


def squares(clips: list[Path], n: int) -> list[Image]:
    """Return frames of clips, in turn with how they change, as the network reads them."""
    found: list[Image] = []
    for path in clips:
        with av.open(str(path)) as container:
            frames = [
                frame.to_ndarray(format="rgb24") for _, frame in zip(range(8), container.decode(video=0), strict=False)
            ]
        for image in (frames[0], cv2.addWeighted(frames[-1], 1.0, frames[-3], -1.0, 128)):
            found.append(np.empty((PX, PX, 3), np.uint8))
            _stretch(np.asarray(image, np.uint8), found[-1])
    return found[:: max(1, len(found) // n)][:n]


def quantised(path: Path, images: list[Image], target: Path) -> Path:
    """Write the network with int8 weights and activations."""

    def inputs() -> Iterator[np.ndarray]:
        for image in images:
            yield ((image.astype(np.float32) - 127.0) / 128.0).transpose(2, 0, 1)[None]

    model = ov.Core().read_model(path)
    model.reshape([1, 3, PX, PX])
    made = nncf.quantize(
        model, nncf.Dataset(list(inputs())), preset=nncf.QuantizationPreset.MIXED, subset_size=len(images)
    )
    made.reshape([-1, 3, PX, PX])
    ov.save_model(made, target, compress_to_fp16=False)
    return target


def measure(path: Path, precision: str, images: list[Image]) -> tuple[np.ndarray, float]:
    """Return the embeddings, and images per second of the network alone."""
    network = OpenVinoNetwork(path, Runtime("cpu", precision), (PX, PX), (127.0,) * 3, (128.0,) * 3)
    batches = [images[start : start + network.batch_size] for start in range(0, len(images), network.batch_size)]

    def place(image: Image, target: Image) -> None:
        target[:] = image

    list(network.run(batches[:4], place, Stopwatch()))
    busy = Stopwatch()
    vectors = np.concatenate(list(network.run(batches, place, busy)))
    return vectors, len(images) / busy.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    Embedder("efficientnet_lite0", Runtime("cpu", "f32"))
    from pipeline.vision.backbones import fingerprint
    from pipeline.vision.runtime import exported

    path = exported("efficientnet_lite0", fingerprint("efficientnet_lite0"), lambda _: None) / "model.xml"
    calibration = squares(sorted((options.data / "jhmdb").rglob("*.mp4"))[::6], N_CALIBRATION)
    compared = squares(sorted((options.data / "gmdcsa24").rglob("*.mp4")) * 5, N_COMPARED)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        int8 = quantised(path, calibration, Path(folder) / "int8.xml")
        print(f"quantised in {time.perf_counter() - started:.0f} s on {len(calibration)} images")
        exact, rate = measure(path, "f32", compared)
        print(f"f32          {rate:6.0f} images/s")
        fastest = "bf16" if cpu_has_bf16() else "f32"
        for name, file, precision in (
            ("bf16", path, "bf16"),
            ("int8", int8, "f32"),
            (f"int8, {fastest}", int8, fastest),
        ):
            vectors, rate = measure(file, precision, compared)
            cosines = (vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(exact, axis=1)
            print(
                f"{name:12s} {rate:6.0f} images/s, cosine to f32: mean {cosines.mean():.4f}, least {cosines.min():.4f}"
            )


if __name__ == "__main__":
    main()
