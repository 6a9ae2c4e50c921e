"""Detection weights: find them, check whether to trust them, export them for the network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.extras import require
from pipeline.vision.detector_bundle import DetectorBundle, embedded_detector_path, load_detector_bundle
from pipeline.vision.keypoint_network import STRIDE
from pipeline.vision.people_architecture import MAPS, has_graph, is_people
from pipeline.vision.runtime import cache_dir, export_in_subprocess, exported

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_TASKS_WITH_BOXES = ("detect", "segment", "pose")
# Boxes of one class are the same object above this intersection over union. The first is Ultralytics' default, at which
# the network for people gives some people two boxes. The second was chosen on street scenes (docs/accuracy.md).
_SAME_IOU, _SAME_PERSON_IOU = 0.7, 0.5
_USUAL_PX = 640
# Version of the exported networks in the cache. It is increased when the export changes.
_FORMAT = 9


def check_trust(weights: str, pickled: str) -> None:
    """Warn about pickled weights, or refuse them: loading such a file runs the code that it holds.

    Args:
        weights: As for `Detector`.
        pickled: `warn` or `refuse`.

    Raises:
        UsageError: The weights are refused.
    """
    if embedded_detector_path(weights) or Path(weights).expanduser().is_dir():
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
    if embedded := embedded_detector_path(weights):
        return embedded
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
                require("ultralytics", f"detector {weights!r}")
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
    except Exception as error:  # The loader unpickles, and a damaged file can raise anything.
        cause = " ".join(str(error).split())
        raise UsageError(f"detector = {str(path)!r}: not readable as Ultralytics weights ({cause})") from error
    task = getattr(network, "task", "?")
    if task not in _TASKS_WITH_BOXES:
        raise UsageError(
            f"detector = {str(path)!r} holds weights for {task!r}, which finds no boxes; use detection weights"
        )
    fused: torch.nn.Module = network.fuse(verbose=False).eval()
    return fused


def first_output(network: torch.nn.Module) -> torch.nn.Module:
    """Wrap a network so that it returns only its predictions; the network for people returns `OneLook`'s rows."""
    import torch

    from pipeline.vision import people_network

    described: Any = network
    if is_people(described.yaml):
        return people_network.OneLook(network)

    class Predictions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return people_network.predictions_of(self.network(x))

    return Predictions()


def exported_weights(path: Path) -> Path:
    """Return the folder of exported weights: `model.xml` for OpenVINO, and `info.json`; exported once per node.

    A network for people with a keypoint head has `keypoints.xml`, too. Its graphs are built here. Ultralytics and
    PyTorch export other weights.

    Raises:
        UsageError: The weights can't be read, or no network can be made of them.
    """
    digest = _digest(path)
    bundle = load_detector_bundle(path) if path.is_dir() else None
    if bundle is not None and has_graph(bundle.architecture):
        return exported(path.stem, f"{digest}|{_FORMAT}", lambda target: _write_graphs(bundle, target))
    require("ultralytics", f"detector {path.stem!r}")
    from importlib.metadata import version

    fingerprint = f"{digest}|ultralytics {version('ultralytics')}|{_FORMAT}"
    return exported(path.stem, fingerprint, lambda target: export_in_subprocess(__name__, str(path), str(target)))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.glob("model.*")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _write_graphs(bundle: DetectorBundle, folder: Path) -> None:
    """Write the graphs of a network for people, and `info.json`, into a folder."""
    import openvino as ov

    from pipeline.vision.people_graph import people_graphs

    looking, seeing = people_graphs(bundle)
    ov.save_model(looking, folder / "model.xml", compress_to_fp16=False)
    info = {"names": bundle.names, "px": bundle.px, "maps": MAPS, "same_iou": _SAME_PERSON_IOU}
    if seeing is not None:
        ov.save_model(seeing, folder / "keypoints.xml", compress_to_fp16=False)
        head = bundle.architecture["keypoint_head"]
        info |= {"kpt_shape": (head["n_keypoints"], 3), "keypoint_map": (head["channels"], STRIDE)}
    _write_info(folder, info)


def _export(path: Path, folder: Path) -> None:
    """Write `model.xml` and `info.json` for weights into a folder, by Ultralytics' own exporter."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import torch
    from ultralytics import YOLO

    from pipeline.vision import people_network

    network: Any = load_weights(path)
    info = {
        "names": network.names,
        "px": _trained_px(path, network),
        "same_iou": _SAME_IOU,
        "end2end": bool(getattr(network, "end2end", False)),
        "kpt_shape": getattr(network.model[-1], "kpt_shape", (0, 0)),
    }
    if is_people(network.yaml):
        _write_info(folder, info | {"maps": MAPS, "same_iou": _SAME_PERSON_IOU})
        people_network.export(network, folder / "model.xml")
        return
    _write_info(folder, info)
    copy = folder / "model.pt"
    if path.is_dir():
        # The exporter reads only checkpoints.
        torch.save({"model": load_detector_bundle(path).network()}, copy)
    else:
        shutil.copy(path, copy)
    made = Path(YOLO(str(copy)).export(format="openvino", dynamic=True, half=False, verbose=False))
    for suffix in (".xml", ".bin"):
        next(made.glob(f"*{suffix}")).rename(folder / f"model{suffix}")
    shutil.rmtree(made)
    copy.unlink()


def _write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write the facts about exported weights that a detector needs; missing ones default to those of boxes alone."""
    usual = {"end2end": False, "kpt_shape": (0, 0), "maps": (), "keypoint_map": None}
    (folder / "info.json").write_text(json.dumps(usual | info), encoding="utf-8")


def _trained_px(path: Path, network: Any) -> int:
    """Return the longest side that a network was trained for, or Ultralytics' default if its file does not say."""
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
