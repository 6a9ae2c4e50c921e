"""Pack a model for machines with little computing power: detector, poses and LSTM in one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.activity.graphs import n_step_states
from pipeline.activity.spec import of_tracks_alone
from pipeline.config import Config
from pipeline.edge.compare import Clip, Outcome, compare
from pipeline.edge.export import Calibration, write_onnx, write_openvino
from pipeline.edge.eyes import Eyes
from pipeline.edge.flatten import flatten
from pipeline.edge.footage import pictures
from pipeline.edge.networks import OpenVinoNetworks
from pipeline.edge.runner import PACK_FORMAT
from pipeline.engine.models import config_for, fitted
from pipeline.errors import UsageError
from pipeline.extras import require
from pipeline.vision.weights import exported_weights, find_weights

RUNTIMES = ("openvino", "onnx")
"""Formats that a pack may hold."""
PRECISIONS = ("f32", "f16", "int8")
"""The precisions in which its networks can be stored."""
# Pictures that calibrate int8, in all and of one clip; more change nothing.
_N_CALIBRATION, _OF_A_CLIP = 160, 8


class Pack(NamedTuple):
    """A packed model."""

    folder: Path
    outcomes: list[Outcome]
    """The results of each kind of networks on the clips, if there were any."""


def pack(
    bundle: str | Path | Bundle,
    out: str | Path,
    clips: Sequence[Clip] = (),
    precisions: Sequence[str] = PRECISIONS,
    runtimes: Sequence[str] = RUNTIMES[:1],
    on_done: Callable[[str], None] | None = None,
) -> Pack:
    """Write the networks of a model, and a one-file program that runs them, into a folder.

    The program, `edge.py`, imports neither PyTorch nor Ray nor this package.

    Args:
        bundle: An activity model of people whose LSTM or GRU does not look ahead, its folder, or the name of one that
            comes with the package.
        out: The folder.
        clips: Clips of the user's own cameras. int8 is calibrated on them. What each kind of networks finds in them is
            compared with what the exact ones find, and with labels if there are any.
        precisions: Some of `PRECISIONS`. `int8` needs clips.
        runtimes: Some of `RUNTIMES`.
        on_done: Called with messages about the progress.

    Raises:
        UsageError: The model can't be packed, or an option does not fit.
    """
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    config = _checked(model, precisions, runtimes, clips)
    notify = on_done or (lambda _: None)
    detector = find_weights(config.chosen_detector)
    exported = exported_weights(detector)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    told = _facts(model, config, json.loads((exported / "info.json").read_text(encoding="utf-8")))
    (folder / "pack.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (folder / "edge.py").write_text(flatten("pipeline.edge.runner"), encoding="utf-8")
    for runtime in RUNTIMES:
        # Old networks, of another model or of kinds that are not wanted now, would be taken for this model's.
        shutil.rmtree(folder / runtime, ignore_errors=True)
    write_openvino(exported, model, folder / "openvino", ["f32"], None)
    calibration = None
    if "int8" in precisions:
        notify("looking at the clips, to calibrate int8")
        calibration = _calibration(told, folder / "openvino" / "f32", clips, notify)
    for runtime in runtimes:
        notify(f"writing networks for {runtime}: {', '.join(precisions)}")
        if runtime == "openvino":
            # The exact networks are already there.
            write_openvino(
                exported, model, folder / runtime, [each for each in precisions if each != "f32"], calibration
            )
        else:
            write_onnx(detector, model, folder / runtime, precisions, calibration)
    kinds = [(runtime, precision) for runtime in runtimes for precision in precisions]
    outcomes = compare(folder, told, clips, kinds, notify)
    if ("openvino", "f32") not in kinds:
        shutil.rmtree(folder / "openvino" / "f32")
        if "openvino" not in runtimes:
            (folder / "openvino").rmdir()
    (folder / "README.md").write_text(_card(told, folder, kinds, outcomes), encoding="utf-8")
    return Pack(folder, outcomes)


def _checked(model: Bundle, precisions: Sequence[str], runtimes: Sequence[str], clips: Sequence[Clip]) -> Config:
    """Check that a model can be packed; return the options of its features."""
    for named, known in ((precisions, PRECISIONS), (runtimes, RUNTIMES)):
        if not named or (unknown := set(named) - set(known)):
            raise UsageError(f"{', '.join(sorted(unknown)) if named else 'nothing'}: known are {', '.join(known)}")
    if "int8" in precisions and not clips:
        raise UsageError("int8 is calibrated on clips of your cameras: name some with --videos, or leave int8 out")
    if "onnx" in runtimes:
        require("onnx", "--runtime onnx")
        require("onnxruntime", "--runtime onnx")
    if "int8" in precisions and "openvino" in runtimes:
        require("nncf", "int8")
    way_out = "train one: actionlake train --inputs box,pose --no-bidirectional, or pack everyday12-pose-causal"
    if model.scope != "person" or not of_tracks_alone(model.spec.inputs):
        raise UsageError(
            f"model {model.name!r} reads {', '.join(model.spec.inputs)}; a pack holds models of box and pose; {way_out}"
        )
    if model.spec.head not in ("lstm", "gru") or model.spec.bidirectional:
        kind = "looks ahead" if model.spec.bidirectional else f"is a {model.spec.head}"
        raise UsageError(f"model {model.name!r} {kind}, and a camera does not know what comes; {way_out}")
    return fitted(Config.load(None, {"scope": model.scope} | config_for([model])), [model])


def _facts(model: Bundle, config: Config, info: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `pack.json`, for the runner."""
    if not info["keypoint_map"]:
        raise UsageError(
            f"detector {config.chosen_detector!r} has no keypoint head beside its maps; a pack holds detectors of the "
            "architecture `people`, such as person_pose"
        )
    names = {int(number): name for number, name in info["names"].items()}
    return {
        "format": PACK_FORMAT,
        "name": model.name,
        "sha256": model.sha256,
        "labels": list(model.labels),
        "background": model.background,
        "inputs": list(model.spec.inputs),
        "sample_fps": config.chosen_fps,
        "frame_px": config.decoded_px,
        "min_track_s": config.min_track_s,
        "state_shape": [n_step_states(model.spec), 1, model.spec.hidden_dim],
        "temperature": model.spec.temperature,
        "energies": list(model.spec.energies),
        "segments": asdict(model.segments),
        "track": {"new_score": config.track_score, "gap_s": config.track_gap_s},
        "detector": {
            "name": config.chosen_detector,
            "px": config.chosen_detector_px or int(info["px"]),
            "maps": [*([channels, stride] for channels, stride, _ in info["maps"]), info["keypoint_map"]],
            "n_classes": len(names),
            "class_ids": [number for number, name in names.items() if name in config.classes],
            "n_keypoints": info["kpt_shape"][0],
            "min_score": config.detector_score,
            "max_boxes": config.max_people,
            "same_iou": info["same_iou"],
        },
    }


class _Recording:
    """Networks that record their inputs."""

    def __init__(self, networks: OpenVinoNetworks) -> None:
        self._networks = networks
        self.images: list[NDArray[np.float32]] = []
        self.parts: list[NDArray[np.float32]] = []

    def detect(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.images.append(images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
        return self._networks.detect(images)

    def keypoints(self, parts: NDArray[np.float32]) -> NDArray[np.float32]:
        self.parts += np.split(parts, len(parts))
        return self._networks.keypoints(parts)


def _calibration(
    told: dict[str, Any], exact: Path, clips: Sequence[Clip], notify: Callable[[str], None]
) -> Calibration:
    """Look at some pictures of clips, and return the inputs of the networks."""
    recording = _Recording(OpenVinoNetworks(exact, 1))
    eyes = Eyes(told["detector"], recording)
    for picture in islice(_some_pictures(told, clips, notify), _N_CALIBRATION):
        eyes.look(picture, picture.shape[1::-1])
    if not recording.parts:
        raise UsageError("int8: nobody is found in the clips; name some with people in them, or leave int8 out")
    return Calibration(recording.images, recording.parts[:: max(1, len(recording.parts) // _N_CALIBRATION)])


def _some_pictures(
    told: dict[str, Any], clips: Sequence[Clip], notify: Callable[[str], None]
) -> Iterator[NDArray[np.uint8]]:
    """Yield some pictures of each clip, one per second."""
    of_a_clip = max(_OF_A_CLIP, -(-_N_CALIBRATION // len(clips)))
    for clip in clips:
        try:
            for picture in islice(pictures(clip.path, 1.0, told["frame_px"]), of_a_clip):
                yield picture.image
        except OSError as error:
            notify(f"left out: {error}")


def _card(told: dict[str, Any], folder: Path, kinds: Sequence[tuple[str, str]], outcomes: Sequence[Outcome]) -> str:
    """Return the text of the pack's card."""
    found = {(each.runtime, each.precision): each for each in outcomes}
    rows = []
    for kind in kinds:
        size_mb = sum(file.stat().st_size for file in (folder / kind[0] / kind[1]).iterdir()) / 1e6
        cells = [kind[0], kind[1], f"{size_mb:.1f}"]
        if kind in found:
            cells += found[kind].cells()
        rows.append(f"| {' | '.join(cells)} |")
    heads = ["runtime", "precision", "MB", *(Outcome.HEADINGS if found else ())]
    table = "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *rows])
    measured = Outcome.EXPLAINED if found else "Nothing was measured: no clips were named."
    labels = ", ".join(label for label in told["labels"] if label != told["background"])
    return f"""# {told["name"]}, packed

    python edge.py video.mp4
    python edge.py rtsp://camera/stream --precision int8
    python edge.py camera:0

`edge.py` prints a JSON line for each segment when it ends: label, score, novelty, start and end, track, mean box. It
needs `numpy`, `opencv-python`, `lap`, and `openvino` or `onnxruntime`; for streams `av`. No other file here is code.

Activities: {labels}. {told["sample_fps"]:g} pictures a second are looked at, by {told["detector"]["name"]}.

{table}

{measured}
"""
