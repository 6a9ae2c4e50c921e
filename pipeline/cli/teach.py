"""Commands that train, correct, measure and apply a model: `train`, `teach`, `evaluate`, `classify`."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    TEACH,
    Address,
    ConfigFile,
    Detector,
    Device,
    Embedder,
    Labels,
    LakeUri,
    MostNovel,
    SampleFps,
    Scope,
    Verbose,
    Workers,
    app,
    console,
    log_to_console,
    out,
    split_list,
)
from pipeline.cli.tables import (
    evaluation_tables,
    labelled_table,
    teaching_table,
    training_table,
)
from pipeline.cli.terminal import ProgressDisplay, plain
from pipeline.config import Config


class Head(StrEnum):
    """Heads of the activity network."""

    lstm = "lstm"
    gru = "gru"
    transformer = "transformer"
    linear = "linear"
    majority = "majority"


_LABELS_HELP = (
    "Labels: a table (video,start_s,end_s,label[,split]) as CSV or Excel, folders of clips, or a file of BORIS, "
    "ActivityNet, CVAT, VIA 3, Label Studio, ELAN or MS-TCN."
)
LabelsFormat = Annotated[str | None, typer.Option("--format", help="Format of the labels.", show_default="detected")]
LabelMap = Annotated[Path | None, typer.Option("--map", help="CSV from,to that renames labels; to may be background.")]


_Inputs = Annotated[
    str | None,
    typer.Option(
        help="frame, frame_change, frame_flow, crop, crop_change, crop_flow, box, pose, separated by commas.",
        show_default="those found to help",
    ),
]


@app.command(rich_help_panel=TEACH)
def train(
    annotations: Annotated[Path, typer.Argument(help=_LABELS_HELP)],
    videos: Annotated[str, typer.Option(help="Folder of the annotated videos.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the bundle; its name is the model's.")],
    lake: Annotated[
        str | None, typer.Option(help="Lake that keeps the features for later runs.", show_default="OUT-lake")
    ] = None,
    scope: Annotated[Scope | None, typer.Option(help="What to label: people, or whole frames.")] = None,
    labels_format: LabelsFormat = None,
    label_map: LabelMap = None,
    inputs: _Inputs = None,
    detector: Detector = None,
    sample_fps: SampleFps = None,
    embedder: Embedder = None,
    head: Annotated[Head | None, typer.Option(help="Kind of sequence network.", show_default="lstm")] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Units of a layer in one direction.")] = None,
    bidirectional: Annotated[bool | None, typer.Option(help="Let each step see later steps, too.")] = None,
    members: Annotated[int | None, typer.Option(help="Number of networks to average.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training videos.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a gain on held-out videos.", show_default="no")
    ] = None,
    input_dropout: Annotated[
        float | None,
        typer.Option(help="Dropout rate of the inputs in training.", show_default="0.5", min=0.0, max=0.95),
    ] = None,
    row_steps: Annotated[
        int | None,
        typer.Option(help="Train on rows of so many steps: faster, for short spans.", show_default="no", min=2),
    ] = None,
    mirror: Annotated[bool | None, typer.Option(help="Mirror half of the sequences; for inputs box and pose.")] = None,
    skeletons: Annotated[
        Path | None, typer.Option(help="Learn from skeletons in 3D, too (.npz); for inputs box and pose.")
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(help="Labels of single events, such as fall, separated by commas.", show_default="none"),
    ] = None,
    least_score: Annotated[float, typer.Option(help="Drop segments with a lower mean score.", min=0.0, max=1.0)] = 0.0,
    most_novel: Annotated[float, typer.Option(help="Drop segments with a higher novelty.", min=0.0, max=1.0)] = 1.0,
    most_novel_event: Annotated[
        float | None,
        typer.Option(help="The same for single events.", min=0.0, max=1.0, show_default="the same limit"),
    ] = None,
    meanings: Annotated[
        Path | None, typer.Option(help="CSV label,meaning that explains each label in the model card.")
    ] = None,
    keep_splits: Annotated[
        bool, typer.Option("--keep-splits", help="Write the model of each split, too, into OUT-splits.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and augmentation.")] = None,
    note: Annotated[str, typer.Option(help="Origin and licence of the data, for the model card.")] = "",
    config_file: ConfigFile = None,
    workers: Workers = None,
    trainers: Annotated[
        int | None, typer.Option(help="Ray workers that train each network together.", show_default="none")
    ] = None,
    device: Device = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Train an activity model on labelled videos and write a bundle with its metrics."""
    from pipeline.engine.train import train as run
    from pipeline.training.fit import FitOptions

    log_to_console(verbose)
    config = Config.load(
        config_file, scope=scope.value if scope else None, inputs=split_list(inputs), detector=detector,
        sample_fps=sample_fps, embedder=embedder, workers=workers, device=device,
    )  # fmt: skip
    chosen = {
        "head": head.value if head else None, "hidden_dim": hidden_dim, "bidirectional": bidirectional,
        "members": members, "epochs": epochs, "patience": patience, "row_steps": row_steps, "mirror": mirror,
        "input_dropout": input_dropout, "seed": seed,
    }  # fmt: skip
    options = FitOptions(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    with ProgressDisplay(console) as display:
        result = run(
            annotations, videos, out_folder, lake, config, options, note, label_map, labels_format, trainers, address,
            display.update, display.epoch, skeletons, split_list(events) or (), least_score,
            most_novel, most_novel_event, keep_splits, meanings,
        )  # fmt: skip
    training_table(out, result)
    out.print(f"bundle: {result.folder}")


@app.command(rich_help_panel=TEACH)
def teach(
    lake: LakeUri,
    answers: Annotated[Path, typer.Argument(help="Corrections: answers of `review`, or labels in any format.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the bundle; its name is the model's.")],
    model: Annotated[
        str | None, typer.Option(help="Bundle to start from.", show_default="the bundled one that labelled the lake")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the answers.", min=1)] = 15,
    replay: Annotated[Path | None, typer.Option(help="Labels of an earlier training, to learn from again.")] = None,
    replay_lake: Annotated[str | None, typer.Option(help="Lake with the features of the --replay videos.")] = None,
    relabel: Annotated[bool, typer.Option(help="Label the lake with the new model.")] = True,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Train a model further on answers and label the lake again. It learns to keep what nobody corrected."""
    from pipeline.engine.relabel import classify as label_anew
    from pipeline.engine.teach import teach as run
    from pipeline.training.teaching import TeachOptions

    log_to_console(verbose)
    options = TeachOptions(epochs=epochs, seed=seed)
    with ProgressDisplay(console) as display:
        result = run(
            lake, answers, out_folder, model, options, replay, replay_lake,
            lambda epoch, loss: display.epoch("answers", epoch, loss),
        )  # fmt: skip
    teaching_table(out, result)
    out.print(f"bundle: {plain(str(result.folder))}", highlight=False, soft_wrap=True)
    if relabel:
        state = label_anew(lake, str(out_folder))
        labelled_table(out, state)
        out.print(
            f"look at it: actionlake report --lake {plain(lake)} --model {plain(state.model)} --out report",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@app.command(rich_help_panel=TEACH)
def evaluate(
    lake: LakeUri,
    annotations: Annotated[Path, typer.Argument(help=_LABELS_HELP)],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the JSON file and the plots.")] = Path(
        "evaluation"
    ),
    model: Annotated[str | None, typer.Option(help="Model whose segments to use.", show_default="the only one")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the labels. Its test part is measured, or its val part.")
    ] = None,
    labels_format: LabelsFormat = None,
    label_map: LabelMap = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out annotated videos that the lake does not hold.")
    ] = False,
) -> None:
    """Compare a lake's segments with annotations: a table, JSON, and plots."""
    from pipeline.report.evaluation import write_evaluation
    from pipeline.training.cases import evaluate_lake

    log_to_console(verbose=False)
    found = evaluate_lake(lake, annotations, model, split, labels_format, label_map, partial)
    evaluation_tables(out, found)
    for path in write_evaluation(found, out_folder):
        out.print(plain(str(path)), highlight=False, soft_wrap=True)


@app.command(rich_help_panel=TEACH)
def classify(
    lake: LakeUri,
    model: Annotated[str, typer.Option(help="Folder of a model bundle, or the name of a bundled one.")],
    labels: Labels = None,
    min_track_s: Annotated[float | None, typer.Option(help="Seconds. A shorter track gives no segment.")] = None,
    most_novel: MostNovel = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Label a lake with another model, from its features. It decodes no video and keeps other models' segments."""
    from pipeline.engine.relabel import ClassifyState
    from pipeline.engine.relabel import classify as run

    log_to_console(verbose)
    started = time.monotonic()

    def show(state: ClassifyState) -> None:
        console.print(f"{state.model}: {state.n_done} of {state.n_shards} shards labelled", highlight=False)

    state = run(lake, model, tuple(split_list(labels) or ()), min_track_s, address, show, most_novel)
    labelled_table(out, state)
    if not state.n_videos:
        return
    out.print(f"{state.n_videos} videos labelled in {time.monotonic() - started:.1f} s", highlight=False)
    for message in state.failures:
        console.print(f"[yellow]not labelled:[/] {plain(message)}", highlight=False, soft_wrap=True)
