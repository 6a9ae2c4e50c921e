"""Train a small detector from nothing with Ultralytics' own trainer, and write it as a bundle."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.errors import UsageError
from pipeline.training.card import detector_card
from pipeline.vision.detector_bundle import DetectorBundle
from pipeline.vision.runtime import cpu_has_bf16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorOptions:
    """How a detector is trained. What is not named here is Ultralytics' default."""

    architecture: str = "yolo11n.yaml"
    """Name of a network description of Ultralytics, randomly initialised, or of one's own file."""
    px: int = 320
    """Longest side of the network's input in pixels, a multiple of 32."""
    epochs: int = 16
    batch_size: int = 16
    """Small, for many steps within few epochs."""
    close_mosaic: int = 3
    """The last epochs see whole images, as in use."""
    learning_rate: float = 2e-3
    scale: float = 0.5
    """Images are enlarged or shrunk by up to this share."""
    seed: int = 0


def train_detector(data: str | Path, out: str | Path, options: DetectorOptions, note: str = "") -> DetectorBundle:
    """Train a detector, or take up an interrupted training again, and write its bundle.

    Checkpoints lie in `<out>-run`; with the same command a training that was cut off goes on after its last epoch.

    Args:
        data: Data set in the layout of Ultralytics: the path of its YAML.
        out: Folder of the bundle; its name is the detector's.
        options: Architecture, sizes, length.
        note: Where the images come from and under which licence, for the model card.

    Raises:
        UsageError: The data set can't be read.
    """
    os.environ["YOLO_AUTOINSTALL"] = "false"
    from ultralytics import YOLO

    data, target = Path(data).absolute(), Path(out)
    if not data.is_file():
        raise UsageError(f"{data}: no such data set; name the data.yaml that describes it")
    run = target.absolute().with_name(f"{target.name}-run")
    last = run / "weights" / "last.pt"
    best = run / "weights" / "best.pt"
    # A finished training leaves no optimizer in its checkpoint: only its bundle is missing.
    if not (last.exists() and _is_finished(last)):
        _train(data, run, last, options)
    metrics = YOLO(str(best)).val(data=str(data), imgsz=options.px, plots=False, workers=0, project=str(run)).box
    record = yaml.safe_load(data.read_text(encoding="utf-8"))
    bundle = DetectorBundle.from_checkpoint(
        best,
        name=target.name,
        px=options.px,
        training={"data": data.name, "classes": record["names"], "options": asdict(options), "note": note},
        metrics={"ap50": float(metrics.map50), "precision": float(metrics.mp), "recall": float(metrics.mr)},
    )
    bundle.save(target, detector_card(bundle))
    return bundle


def _train(data: Path, run: Path, last: Path, options: DetectorOptions) -> None:
    """Train from the start, or from the last checkpoint on if there is one."""
    from ultralytics import YOLO

    network = YOLO(str(last) if last.exists() else options.architecture, task="detect")
    network.add_callback("on_train_start", _use_whole_cpu)
    network.train(
        data=str(data),
        project=str(run.parent),
        name=run.name,
        exist_ok=True,
        resume=last.exists(),
        imgsz=options.px,
        epochs=options.epochs,
        batch=options.batch_size,
        close_mosaic=options.close_mosaic,
        lr0=options.learning_rate,
        optimizer="AdamW",
        momentum=0.9,
        weight_decay=5e-4,
        cos_lr=True,
        warmup_epochs=1.0,
        nbs=options.batch_size,
        scale=options.scale,
        seed=options.seed,
        pretrained=False,
        plots=False,
        workers=1,
    )


def _is_finished(checkpoint: Path) -> bool:
    return torch.load(checkpoint, map_location="cpu", weights_only=False).get("optimizer") is None


def _use_whole_cpu(trainer: Any) -> None:
    """Train on all cores, in bf16 where they have it: Ultralytics leaves a core out, and knows f32 alone."""
    if trainer.device.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
        trainer.amp = cpu_has_bf16()
