"""Train a small detector with Ultralytics' own trainer, and write it as a bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.errors import UsageError
from pipeline.training.card import detector_card
from pipeline.training.keypoint_views import KeypointOptions
from pipeline.training.keypoints import learn_keypoints, measure_keypoints, with_keypoints_of
from pipeline.training.turning import turning_trainer
from pipeline.vision import people_architecture, people_network
from pipeline.vision.detector_bundle import DetectorBundle, load_detector_bundle
from pipeline.vision.runtime import choose_runtime, cpu_has_bf16, training_threads
from pipeline.vision.weights import find_weights

log = logging.getLogger(__name__)

PEOPLE = "people"
"""The architecture whose single pass also describes a frame."""


@dataclass(frozen=True)
class DetectorOptions:
    """How a detector is trained. All other options keep Ultralytics' defaults."""

    architecture: str = PEOPLE
    """`people`: EfficientNet-Lite0, which starts from its ImageNet weights, with a neck and a head of Ultralytics.
    Else the name of an Ultralytics network description, randomly initialised, or of your own file."""
    freeze_backbone: bool = True
    """Whether the backbone of `people` keeps its weights."""
    teacher: str = ""
    """Weights of Ultralytics, found or named as for `Detector`. The network also learns to reproduce the feature maps
    from which the teacher predicts, weighted by the teacher's confidence. This needs no labels, and tells more than
    boxes. The teacher sees the images at `px`, and has as many scales as the network. Empty: learn only from labels."""
    start: str = ""
    """Detector bundle, a folder or the name of an embedded one. Training starts from its weights, as far as they fit.
    Its keypoint head is kept if the backbone, which the head reads, keeps its weights. Empty: no start weights."""
    px: int = 320
    """Longest side of the network's input in pixels, a multiple of 32. If `epochs` is 0, the bundle keeps its own size,
    and keypoints are learnt at this one."""
    epochs: int = 16
    """Passes over the data set in which boxes are learnt. 0: the boxes of `start` are kept."""
    batch_size: int = 16
    """Small, for many steps in few epochs."""
    close_mosaic: int = 3
    """Number of last epochs that see whole images, as in inference."""
    learning_rate: float = 2e-3
    scale: float = 0.5
    """Images are enlarged or shrunk by up to this share."""
    turned: float = 0.0
    """Share of the images that are turned by quarters, for people who lie and for cameras that look down."""
    keypoint_epochs: int = 12
    """Passes over the data set in which `people` learns keypoints, after the boxes. 0: the keypoint head of `start` is
    kept; if there is none to keep, Ultralytics' pose head learns keypoints together with the boxes."""
    hours: float | None = None
    """Time limit for learning boxes. The learning rate is at first planned for `epochs`."""
    workers: int = 1
    """Processes that read images. A GPU needs many."""
    seed: int = 0


def train_detector(
    data: Sequence[str | Path], out: str | Path, options: DetectorOptions, note: str = ""
) -> DetectorBundle:
    """Train a detector, or resume an interrupted training, and write its bundle.

    Checkpoints are in `<out>-run`. The same command resumes an interrupted training after its last epoch.

    Args:
        data: Data sets in the layout of Ultralytics: the paths of their YAML files. With keypoints the network learns
            these as well.
        out: Folder of the bundle; its name is the detector's.
        options: Architecture, sizes, length.
        note: Where the images come from and under which licence, for the model card.

    Raises:
        UsageError: A data set can't be read, they do not fit together, or there is nothing to learn.
    """
    os.environ["YOLO_AUTOINSTALL"] = "false"
    target = Path(out)
    run = target.absolute().with_name(f"{target.name}-run")
    merged = _merge([Path(path).absolute() for path in data])
    learns_keypoints = options.architecture == PEOPLE and "kpt_shape" in merged and options.keypoint_epochs > 0
    if not options.epochs and not (options.start and learns_keypoints):
        raise UsageError("epochs = 0 leaves the boxes as they are: name --start, and a data set with keypoints")
    run.mkdir(parents=True, exist_ok=True)
    (run / "data.yaml").write_text(yaml.safe_dump(merged, sort_keys=False), encoding="utf-8")
    training = {"classes": merged["names"], "options": _told(options), "note": note}
    start = load_detector_bundle(find_weights(options.start)) if options.start else None
    if options.epochs:
        head_of = start if start is not None and _is_head_kept(start, options) else None
        bundle = _learn_boxes(run, options, merged, boxes_alone=learns_keypoints or head_of is not None)
        if head_of is not None:
            bundle = with_keypoints_of(bundle, head_of)
            training |= {"keypoints": head_of.training}
    else:
        assert start is not None
        bundle = start
        training |= {"boxes": bundle.training.get("boxes", bundle.training)}
    if learns_keypoints:
        bundle = learn_keypoints(bundle, merged, run, _for_keypoints(options))
    elif "keypoint_head" in bundle.architecture and "kpt_shape" in merged:
        bundle = measure_keypoints(bundle, merged, _for_keypoints(options))
    bundle = replace(bundle, name=target.name, training=training)
    bundle.save(target, detector_card(bundle))
    return bundle


def _is_head_kept(start: DetectorBundle, options: DetectorOptions) -> bool:
    """Whether the keypoint head of the start bundle still fits after the training of boxes."""
    return options.architecture == PEOPLE and options.freeze_backbone and "keypoint_head" in start.architecture


def _learn_boxes(run: Path, options: DetectorOptions, merged: dict[str, Any], boxes_alone: bool) -> DetectorBundle:
    """Train with Ultralytics' trainer and return the bundle. With `boxes_alone`, its pose head need not learn."""
    from ultralytics import YOLO

    last = run / "weights" / "last.pt"
    best = run / "weights" / "best.pt"
    # The checkpoint of a finished training has no optimizer. Then only the bundle is missing.
    if not (last.exists() and _is_finished(last)):
        _train(run, last, options, merged, boxes_alone)
    measured = YOLO(str(best)).val(
        data=str(run / "data.yaml"), imgsz=options.px, plots=False, workers=0, project=str(run)
    )
    metrics = {
        "ap50": float(measured.box.map50),
        "precision": float(measured.box.mp),
        "recall": float(measured.box.mr),
    }
    if "kpt_shape" in merged:
        metrics["keypoints_ap50"] = float(measured.pose.map50)
    return DetectorBundle.from_checkpoint(best, options.px, metrics)


def _for_keypoints(options: DetectorOptions) -> KeypointOptions:
    return KeypointOptions(
        px=options.px,
        epochs=options.keypoint_epochs,
        batch_size=options.batch_size,
        turned=options.turned,
        workers=options.workers,
        seed=options.seed,
    )


def _told(options: DetectorOptions) -> dict[str, Any]:
    """Return the options for the record. Files are given by name, because their folders mean nothing elsewhere."""
    return asdict(options) | {name: Path(getattr(options, name)).name for name in ("teacher", "start")}


def _merge(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the description of several data sets as one.

    Raises:
        UsageError: One can't be read, or differs from the first in classes or keypoints.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: no such data set; name the data.yaml that describes it")
        try:
            record = yaml.safe_load(path.read_text(encoding="utf-8"))
            root = path.parent / record.get("path", "")
            found = {part: [str(root / folder) for folder in _listed(record[part])] for part in ("train", "val")}
            names = record["names"]
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}: not a data set of Ultralytics ({type(error).__name__}: {error}); it needs train, val, names"
            ) from error
        labels = {"names": names} | {key: record[key] for key in ("kpt_shape", "flip_idx") if key in record}
        if not merged:
            merged = {"path": "", "train": [], "val": []} | labels
        for key in ("names", "kpt_shape"):
            if labels.get(key) != merged.get(key):
                raise UsageError(
                    f"{path}: {key} is {labels.get(key)}, in {paths[0]} it is {merged.get(key)}; "
                    "data sets that are learnt together must have the same"
                )
        for part, folders in found.items():
            merged[part] += folders
    # Training images are used for validation only if there are no others.
    merged["val"] = [folder for folder in merged["val"] if folder not in merged["train"]] or merged["val"]
    return merged


def _listed(folders: str | list[str]) -> list[str]:
    return [folders] if isinstance(folders, str) else folders


def _train(run: Path, last: Path, options: DetectorOptions, data: dict[str, Any], boxes_alone: bool) -> None:
    """Train from the start, or resume from the last checkpoint if there is one."""
    from ultralytics import YOLO

    people_network.register()
    keypoints = data.get("kpt_shape")
    description, freeze = options.architecture, None
    if options.architecture == PEOPLE:
        description = str(run / "network.yaml")
        network = people_architecture.architecture(len(data["names"]), keypoints[0] if keypoints else 0)
        Path(description).write_text(yaml.safe_dump(network, sort_keys=False), encoding="utf-8")
        freeze = [0] if options.freeze_backbone else None
    model = YOLO(str(last) if last.exists() else description, task="pose" if keypoints else "detect")
    model.add_callback("on_train_start", _use_whole_cpu)
    if freeze:
        model.add_callback("on_train_start", _freeze_in_openvino)
    model.train(
        trainer=turning_trainer(options.turned, has_keypoints=bool(keypoints)),
        data=str(run / "data.yaml"),
        project=str(run.parent),
        name=run.name,
        exist_ok=True,
        resume=last.exists(),
        imgsz=options.px,
        epochs=options.epochs,
        distill_model=str(find_weights(options.teacher)) if options.teacher else None,
        batch=options.batch_size,
        close_mosaic=options.close_mosaic,
        lr0=options.learning_rate,
        optimizer="AdamW",
        momentum=0.9,
        weight_decay=5e-4,
        cos_lr=True,
        warmup_epochs=options.epochs / 10,
        nbs=options.batch_size,
        scale=options.scale,
        freeze=freeze,
        seed=options.seed,
        pretrained=_checkpoint_of(options.start, run) if options.start else False,
        plots=False,
        workers=options.workers,
        time=options.hours,
        **({"pose": 0.0, "kobj": 0.0} if boxes_alone else {}),
    )


def _checkpoint_of(bundle: str, run: Path) -> str:
    """Write the weights of a bundle in the form that Ultralytics can start from, and return the path."""
    path = run / "start.pt"
    torch.save({"model": load_detector_bundle(find_weights(bundle)).network()}, path)
    return str(path)


def _is_finished(checkpoint: Path) -> bool:
    return torch.load(checkpoint, map_location="cpu", weights_only=False).get("optimizer") is None


def _use_whole_cpu(trainer: Any) -> None:
    """Train on all cores, in bf16 if they support it. Ultralytics leaves out one core and uses only f32."""
    if trainer.device.type == "cpu":
        torch.set_num_threads(training_threads())
        trainer.amp = cpu_has_bf16()


def _freeze_in_openvino(trainer: Any) -> None:
    """On a CPU, run a frozen backbone in OpenVINO, because PyTorch takes several times as long."""
    if trainer.device.type == "cpu":
        network = getattr(trainer.model, "student_model", trainer.model)
        people_network.freeze_in_openvino(network.model[0], choose_runtime("cpu", threads=torch.get_num_threads()))
