"""Distil a small detector for one's own cameras: let a strong one label frames, then train on them.

    python jobs/train_detector.py label SOURCE... --teacher yolo11x.pt --landmarks NETWORK.tflite --out DATASET
    python jobs/train_detector.py import keypoints.json --images FOLDER --out DATASET
    python jobs/train_detector.py train DATASET/data.yaml... --out BUNDLE

The bundle is named to `actionlake analyze --detector BUNDLE`.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError
from pipeline.training.coco import import_coco
from pipeline.training.detector import DetectorOptions, train_detector
from pipeline.training.distill import LabelOptions, Teacher, label_videos
from pipeline.vision.detector import Detector
from pipeline.vision.landmarks import LandmarkNetwork
from pipeline.vision.runtime import choose_runtime
from pipeline.vision.weights import check_trust

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
_DATA, _LEARNING = LabelOptions(), DetectorOptions()


@app.command()
def label(
    sources: Annotated[list[str], typer.Argument(help="Videos: files, folders, globs, manifests.")],
    teacher: Annotated[str, typer.Option(help="Detection weights of Ultralytics, or a detector bundle.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    classes: Annotated[str, typer.Option(help="Classes of the teacher to learn, as one; by commas.")] = "person",
    name: Annotated[str | None, typer.Option(help="Name of that one class.", show_default="the first")] = None,
    teacher_px: Annotated[int, typer.Option(help="Longest side of the teacher's input.")] = 640,
    min_score: Annotated[float, typer.Option(help="The teacher's boxes below this are no labels.")] = 0.35,
    every_s: Annotated[float, typer.Option(help="Label one frame in so many seconds.")] = _DATA.every_s,
    parts: Annotated[int, typer.Option(help="Enlarged parts kept of each large frame.")] = _DATA.parts,
    student_px: Annotated[int, typer.Option(help="Longest side of the student's input.")] = _DATA.student_px,
    turned: Annotated[
        bool, typer.Option("--turned", help="Show the teacher each frame in four orientations: for people who lie.")
    ] = False,
    landmarks: Annotated[
        Path | None, typer.Option(help="BlazePose's pose_landmark_full.tflite: label keypoints as well.")
    ] = None,
) -> None:
    """Label frames of videos by a strong detector, and by a network of keypoints."""
    runtime = choose_runtime(threads=os.cpu_count() or 1)
    check_trust(teacher, "warn")
    detector = Detector(teacher, runtime, classes.split(","), teacher_px, min_score, max_boxes=300)
    teaching = Teacher(detector, LandmarkNetwork(landmarks, runtime) if landmarks else None, turned)
    options = LabelOptions(
        every_s=every_s, parts=parts, student_px=student_px, class_name=name or classes.split(",")[0]
    )
    typer.echo(label_videos(list_videos(sources), teaching, out, options))


@app.command("import")
def import_(
    labels: Annotated[Path, typer.Argument(help="COCO's JSON of people and their keypoints.")],
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
) -> None:
    """Take over labels of your own. A data set in Ultralytics' layout needs no import."""
    typer.echo(import_coco(labels, images, out))


@app.command()
def train(
    data: Annotated[list[Path], typer.Argument(help="Data sets in the layout of Ultralytics: their data.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    architecture: Annotated[
        str, typer.Option(help="`people`, or a network description of Ultralytics.")
    ] = _LEARNING.architecture,
    freeze_backbone: Annotated[
        bool, typer.Option(help="Whether the backbone of `people` keeps its ImageNet weights.")
    ] = _LEARNING.freeze_backbone,
    teacher: Annotated[
        str, typer.Option(help="Weights of Ultralytics whose maps the network learns to repeat, beside the labels.")
    ] = _LEARNING.teacher,
    start: Annotated[str, typer.Option(help="Detector bundle whose weights the training begins with.")] = "",
    px: Annotated[int, typer.Option(help="Longest side of the input.")] = _LEARNING.px,
    epochs: Annotated[
        int, typer.Option(help="Passes over the data set in which boxes are learnt; 0: those of --start stay.")
    ] = _LEARNING.epochs,
    keypoint_epochs: Annotated[
        int, typer.Option(help="Passes over the data set in which keypoints are learnt; 0: they stay those of --start.")
    ] = _LEARNING.keypoint_epochs,
    batch_size: Annotated[int, typer.Option(help="Images of one step.")] = _LEARNING.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = _LEARNING.learning_rate,
    turned: Annotated[
        float, typer.Option(help="Share of the pictures shown turned by one to three quarters: for those who lie.")
    ] = _LEARNING.turned,
    hours: Annotated[
        float | None,
        typer.Option(help="Learn boxes no longer than so many hours, whatever the epochs.", show_default="never"),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that read pictures; more of them for a GPU.")
    ] = _LEARNING.workers,
    note: Annotated[str, typer.Option(help="Origin and licence of the data, for the model card.")] = "",
) -> None:
    """Train a detector; the same command takes up a training that was cut off."""
    options = DetectorOptions(
        architecture=architecture,
        freeze_backbone=freeze_backbone,
        teacher=teacher,
        start=start,
        px=px,
        epochs=epochs,
        keypoint_epochs=keypoint_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        turned=turned,
        hours=hours,
        workers=workers,
    )
    bundle = train_detector(data, out, options, note)
    told = "".join(f", {name} {value:.3f}" for name, value in bundle.metrics.items())
    typer.echo(f"{out}{told} on the held-out images")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app()
    except UsageError as error:
        sys.exit(f"error: {error}")
