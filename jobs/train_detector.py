"""Distil a small detector for your own cameras: a strong detector labels frames, and the small one learns from them.

    python jobs/train_detector.py label SOURCE... --teacher yolo11x.pt --landmarks NETWORK.tflite --out DATASET
    python jobs/train_detector.py import keypoints.json --images FOLDER --out DATASET
    python jobs/train_detector.py train DATASET/data.yaml... --out BUNDLE

Use the bundle with `actionlake analyze --detector BUNDLE`.
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
    teacher: Annotated[str, typer.Option(help="Ultralytics detection weights, or a detector bundle.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    classes: Annotated[str, typer.Option(help="Teacher's classes to learn as one class, by commas.")] = "person",
    name: Annotated[str | None, typer.Option(help="Name of that one class.", show_default="the first")] = None,
    teacher_px: Annotated[int, typer.Option(help="Longest side of the teacher's input, in pixels.")] = 640,
    min_score: Annotated[float, typer.Option(help="Teacher's boxes with a lower score are ignored.")] = 0.35,
    every_s: Annotated[float, typer.Option(help="Seconds between two labelled frames.")] = _DATA.every_s,
    parts: Annotated[int, typer.Option(help="Enlarged parts to keep of each large frame.")] = _DATA.parts,
    student_px: Annotated[int, typer.Option(help="Longest side of the student's input, in pixels.")] = _DATA.student_px,
    turned: Annotated[
        bool, typer.Option("--turned", help="Show the teacher each frame in four orientations, to find lying people.")
    ] = False,
    landmarks: Annotated[
        Path | None, typer.Option(help="BlazePose's pose_landmark_full.tflite, to label keypoints, too.")
    ] = None,
) -> None:
    """Label frames of videos with a strong detector, and with a keypoint network if one is given."""
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
    labels: Annotated[Path, typer.Argument(help="JSON file of people and their keypoints, in COCO format.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
) -> None:
    """Import your own labels. A data set in Ultralytics' layout needs no import."""
    typer.echo(import_coco(labels, images, out))


@app.command()
def train(
    data: Annotated[list[Path], typer.Argument(help="data.yaml files of data sets in Ultralytics' layout.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    architecture: Annotated[
        str, typer.Option(help="`people`, or an Ultralytics network description.")
    ] = _LEARNING.architecture,
    freeze_backbone: Annotated[
        bool, typer.Option(help="Keep the weights of the backbone of `people`.")
    ] = _LEARNING.freeze_backbone,
    teacher: Annotated[
        str, typer.Option(help="Ultralytics weights whose maps the network also learns to repeat.")
    ] = _LEARNING.teacher,
    start: Annotated[str, typer.Option(help="Detector bundle with the weights to start from.")] = "",
    px: Annotated[int, typer.Option(help="Longest side of the input, in pixels.")] = _LEARNING.px,
    epochs: Annotated[
        int, typer.Option(help="Passes over the data set to learn boxes. 0: keep those of --start.")
    ] = _LEARNING.epochs,
    keypoint_epochs: Annotated[
        int, typer.Option(help="Passes over the data set to learn keypoints. 0: keep those of --start.")
    ] = _LEARNING.keypoint_epochs,
    batch_size: Annotated[int, typer.Option(help="Images per training step.")] = _LEARNING.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = _LEARNING.learning_rate,
    turned: Annotated[
        float, typer.Option(help="Share of the images turned by one to three quarters, to find lying people.")
    ] = _LEARNING.turned,
    hours: Annotated[
        float | None,
        typer.Option(help="Most hours to learn boxes, whatever --epochs says.", show_default="no limit"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read images. A GPU needs many.")] = _LEARNING.workers,
    note: Annotated[str, typer.Option(help="Origin and licence of the data, for the model card.")] = "",
) -> None:
    """Train a detector. After an interruption, the same command resumes the training."""
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
