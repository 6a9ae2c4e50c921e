"""Find people, or other things, by any Ultralytics detection weights."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import EMBEDDED_DETECTOR
from pipeline.errors import UsageError
from pipeline.vision.detector_bundle import embedded_detector_path, load_detector_bundle
from pipeline.vision.network import Image, ImageNetwork
from pipeline.vision.runtime import Runtime, cache_dir, export_in_subprocess, exported

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_TASKS_WITH_BOXES = ("detect", "segment", "pose")
_LETTERBOX_GREY = 114
_STRIDE = 32
_USUAL_PX = 640
# Two boxes of one class that overlap by more than this are one thing: the value Ultralytics predicts with.
_NMS_IOU = 0.7


@dataclass(frozen=True)
class Boxes:
    """The boxes of one frame, best first."""

    xyxy: NDArray[np.float32]
    """`float32 [N, 4]`: left, top, right, bottom in pixels of the given image."""
    scores: NDArray[np.float32]
    """`float32 [N]`."""
    class_ids: NDArray[np.int32]
    """`int32 [N]`: numbers of the weights' own classes."""
    keypoints: NDArray[np.float32] | None = None
    """`float32 [N, K, 3]`: x and y in pixels of the given image, score from 0 to 1. None: the weights know none."""


class Detector:
    """Images in, boxes out, with the pre- and post-processing of Ultralytics."""

    def __init__(
        self,
        weights: str,
        runtime: Runtime,
        classes: Sequence[str],
        longest_px: int | None,
        min_score: float,
        max_boxes: int,
    ) -> None:
        """Load detection weights, exporting them first if this node has not used them before.

        Args:
            weights: `person_nano` (embedded), the folder of a detector bundle, the path of a `.pt` file, or a name
                such as `yolo11n.pt` that Ultralytics downloads.
            runtime: Where and how to compute.
            classes: Names of the classes to keep.
            longest_px: Longest side of the network's input in pixels; images are shrunk or enlarged to it. None: what
                the network was trained for.
            min_score: Boxes below this are dropped.
            max_boxes: At most so many boxes per image, the best by score.

        Raises:
            UsageError: The weights are missing, are of a task without boxes, or lack one of the classes.
        """
        path = find_weights(weights)
        folder = exported(
            path.stem, _fingerprint(path), lambda target: export_in_subprocess(__name__, str(path), str(target))
        )
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        self.names: dict[int, str] = {int(number): name for number, name in info["names"].items()}
        self._end2end = bool(info["end2end"])
        self.n_keypoints, self._keypoint_dims = info["kpt_shape"]
        self._class_ids = _class_ids(self.names, classes, weights)
        self.longest_px = longest_px or int(info["px"])
        self._min_score, self._max_boxes = min_score, max_boxes
        self._network = ImageNetwork(
            runtime, lambda: folder / "model.xml", lambda: _first_output(load_weights(path)), (0.0,) * 3, (255.0,) * 3
        )

    @property
    def busy_s(self) -> float:
        """Seconds that the network itself has computed."""
        return self._network.busy.seconds

    def detect(self, images: NDArray[np.uint8]) -> list[Boxes]:
        """Return the boxes of each of N images `uint8 [N, H, W, 3]`, RGB."""
        if not len(images):
            return []
        height, width = images.shape[1:3]
        # Small images are enlarged, too, as Ultralytics does: the network finds people of the sizes it was trained on.
        scale = self.longest_px / max(height, width)
        inner_h, inner_w = round(height * scale), round(width * scale)
        outer_h, outer_w = (-(-side // _STRIDE) * _STRIDE for side in (inner_h, inner_w))
        top, left = (outer_h - inner_h) // 2, (outer_w - inner_w) // 2
        interpolation = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR

        def place(image: Image, target: Image) -> None:
            target[:] = _LETTERBOX_GREY
            inside = target[top : top + inner_h, left : left + inner_w]
            inside[:] = image if scale == 1.0 else cv2.resize(image, (inner_w, inner_h), interpolation=interpolation)

        return [
            self._to_boxes(self._best(predictions), scale, top, left, height, width)
            for batch in self._network(list(images), (outer_h, outer_w), place)
            for predictions in batch
        ]

    def _best(self, predictions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image's boxes `float32 [N, 6 + ...]`: xyxy, score, class, keypoints if any; best first."""
        if self._end2end:
            found = predictions[predictions[:, 4] > self._min_score]
            return found[np.isin(found[:, 5], self._class_ids)][: self._max_boxes]
        return best_boxes(predictions, len(self.names), self._class_ids, self._min_score, self._max_boxes)

    def _to_boxes(
        self, found: NDArray[np.float32], scale: float, top: int, left: int, height: int, width: int
    ) -> Boxes:
        xyxy = (found[:, :4] - np.array([left, top, left, top], np.float32)) / np.float32(scale)
        xyxy[:, 0::2] = xyxy[:, 0::2].clip(0, width)
        xyxy[:, 1::2] = xyxy[:, 1::2].clip(0, height)
        solid = (xyxy[:, 2] - xyxy[:, 0] >= 1) & (xyxy[:, 3] - xyxy[:, 1] >= 1)
        keypoints = None
        if self.n_keypoints:
            numbers = found[solid, 6 : 6 + self.n_keypoints * self._keypoint_dims]
            given = numbers.reshape(len(numbers), self.n_keypoints, self._keypoint_dims)
            # Weights that tell no score of a keypoint are sure of all.
            keypoints = np.ones((*given.shape[:2], 3), np.float32)
            keypoints[..., : self._keypoint_dims] = given
            keypoints[..., :2] = (keypoints[..., :2] - np.array([left, top], np.float32)) / np.float32(scale)
            keypoints[..., :2] = keypoints[..., :2].clip(0, np.array([width, height], np.float32))
        return Boxes(xyxy[solid], found[solid, 4], found[solid, 5].astype(np.int32), keypoints)


def best_boxes(
    predictions: NDArray[np.float32], n_classes: int, class_ids: Sequence[int], min_score: float, max_boxes: int
) -> NDArray[np.float32]:
    """Return what non-maximum suppression leaves of an image's predictions, `float32 [N, 6 + ...]`.

    A row holds xyxy, score, class, and what else the network says of the box: keypoints, coefficients of a mask.

    The same boxes as Ultralytics' `non_max_suppression`, without importing it and PyTorch, which costs every worker two
    seconds and 400 MB.

    Args:
        predictions: `float32 [4 + n_classes + ..., A]` for A anchors: centre, size, scores.
        n_classes: Classes of the network.
        class_ids: Those that are wanted.
        min_score: Boxes up to this are dropped.
        max_boxes: At most so many, the best by score.
    """
    scores = predictions[4 : 4 + n_classes]
    likely = np.flatnonzero(scores[list(class_ids)].max(axis=0) > min_score)
    scores = scores[:, likely]
    # An anchor speaks for its best class alone, wanted or not.
    best_class = scores.argmax(axis=0)
    wanted = np.isin(best_class, class_ids)
    likely, best_class, scores = likely[wanted], best_class[wanted], scores.max(axis=0)[wanted]
    size = predictions[2:4, likely].T
    corner = predictions[:2, likely].T - size / 2
    kept = cv2.dnn.NMSBoxesBatched(
        np.hstack([corner, size]).tolist(), scores.tolist(), best_class.tolist(), min_score, _NMS_IOU
    )
    others = predictions[4 + n_classes :, likely].T
    boxes = np.hstack([corner, corner + size, scores[:, None], best_class[:, None], others]).astype(np.float32)
    return boxes[np.asarray(kept, np.intp)[:max_boxes]]


def check_trust(weights: str, pickled: str) -> None:
    """Warn of weights that are pickled, or refuse them: loading such a file runs the code that it holds.

    Args:
        weights: As for `Detector`.
        pickled: `warn` or `refuse`.

    Raises:
        UsageError: They are refused.
    """
    if weights == EMBEDDED_DETECTOR or Path(weights).expanduser().is_dir():
        return
    risk = f"detector = {weights!r} is a pickle, which runs code of whoever made it when it is loaded"
    if pickled == "refuse":
        raise UsageError(f"{risk}; name a detector bundle, or allow it with pickled_weights = 'warn'")
    log.warning("%s; use it only if you trust its source, or refuse such files with --refuse-pickle", risk)


def find_weights(weights: str) -> Path:
    """Return the path of weights: as given, or downloaded once per node by Ultralytics into the cache folder.

    Raises:
        UsageError: The file does not exist and can't be downloaded.
    """
    if weights == EMBEDDED_DETECTOR:
        return embedded_detector_path()
    path = Path(weights).expanduser()
    if path.exists():
        return path
    cached = cache_dir() / path.name
    if not cached.exists():
        from filelock import FileLock

        cache_dir().mkdir(parents=True, exist_ok=True)
        hint = f"detector = {weights!r}: no such file, and it can't be downloaded"
        way_out = f"put the file there, or into {cache_dir()}, on every node"
        if path.parent != Path("."):
            raise UsageError(f"detector = {weights!r}: no such file; {way_out}")
        with FileLock(f"{cached}.lock"):
            if not cached.exists():
                from ultralytics.utils.downloads import attempt_download_asset

                try:
                    attempt_download_asset(cached)
                except (OSError, RuntimeError) as error:
                    raise UsageError(f"{hint} ({error}); {way_out}") from error
                if not cached.exists():
                    raise UsageError(f"{hint}; {way_out}")
    return cached


def load_weights(path: Path) -> torch.nn.Module:
    """Load Ultralytics weights, or a detector bundle, as a network in inference mode.

    Raises:
        UsageError: The file is not an Ultralytics checkpoint, or its task has no boxes.
    """
    from ultralytics import YOLO

    if path.is_dir():
        bundled: Any = load_detector_bundle(path).network()
        ready: torch.nn.Module = bundled.fuse(verbose=False)
        return ready
    try:
        network: Any = YOLO(str(path)).model
    except Exception as error:  # The loader unpickles: a damaged file raises whatever it likes.
        cause = " ".join(str(error).split())
        raise UsageError(f"detector = {str(path)!r}: not readable as Ultralytics weights ({cause})") from error
    task = getattr(network, "task", "?")
    if task not in _TASKS_WITH_BOXES:
        raise UsageError(
            f"detector = {str(path)!r} holds weights for {task!r}, which finds no boxes; use detection weights"
        )
    fused: torch.nn.Module = network.fuse(verbose=False).eval()
    return fused


def _first_output(network: torch.nn.Module) -> torch.nn.Module:
    """Wrap a network so that it returns its predictions alone."""
    import torch

    class Predictions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: Any = self.network(x)
            while isinstance(output, (tuple, list)):
                output = output[0]
            predictions: torch.Tensor = output
            return predictions

    return Predictions()


def _class_ids(names: dict[int, str], wanted: Sequence[str], weights: str) -> list[int]:
    numbers = {name: number for number, name in names.items()}
    unknown = [name for name in wanted if name not in numbers]
    if unknown:
        raise UsageError(
            f"detector {weights!r} has no class {', '.join(map(repr, unknown))}; it has {', '.join(names.values())}"
        )
    return [numbers[name] for name in wanted]


def _fingerprint(path: Path) -> str:
    from importlib.metadata import version

    digest = hashlib.sha256()
    for file in sorted(path.glob("model.*")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()}|ultralytics {version('ultralytics')}|3"


def _export(path: Path, folder: Path) -> None:
    """Write `model.xml` and `info.json` for weights into a folder, by Ultralytics' own exporter."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import torch
    from ultralytics import YOLO

    network: Any = load_weights(path)
    px = _trained_px(path, network)
    copy = folder / "model.pt"
    if path.is_dir():
        # The exporter reads checkpoints alone.
        torch.save({"model": load_detector_bundle(path).network()}, copy)
    else:
        shutil.copy(path, copy)
    made = Path(YOLO(str(copy)).export(format="openvino", dynamic=True, half=False, verbose=False))
    for suffix in (".xml", ".bin"):
        next(made.glob(f"*{suffix}")).rename(folder / f"model{suffix}")
    shutil.rmtree(made)
    copy.unlink()
    info = {
        "names": network.names,
        "end2end": bool(getattr(network, "end2end", False)),
        "px": px,
        "kpt_shape": getattr(network.model[-1], "kpt_shape", (0, 0)),
    }
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")


def _trained_px(path: Path, network: Any) -> int:
    """Return the longest side that a network was trained for; where its file does not tell, Ultralytics' default."""
    if path.is_dir():
        return load_detector_bundle(path).px
    trained = getattr(network, "args", {})
    size = trained.get("imgsz", _USUAL_PX) if isinstance(trained, dict) else _USUAL_PX
    return int(max(size)) if isinstance(size, (list, tuple)) else int(size)


if __name__ == "__main__":
    try:
        _export(Path(sys.argv[1]), Path(sys.argv[2]))
    except UsageError as error:
        sys.exit(str(error))
