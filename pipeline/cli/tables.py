"""The tables that commands print."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pipeline.cli.terminal import plain

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.edge.pack import Pack
    from pipeline.engine.benchmark import Benchmark
    from pipeline.engine.board import JobState
    from pipeline.engine.relabel import ClassifyState
    from pipeline.engine.teach import TeachResult
    from pipeline.engine.train import TrainResult
    from pipeline.lake.places import Places
    from pipeline.lake.query import LakeReader
    from pipeline.lake.search import Hit
    from pipeline.lake.store import Lake
    from pipeline.motion.forecaster_bundle import ForecasterBundle
    from pipeline.training.answers import Agreement
    from pipeline.training.cases import LakeEvaluation

_STAGE_NAMES = {
    "decode": "decoding",
    "detect": "detecting",
    "embed": "embedding",
    "write": "writing",
    "label": "labelling",
}


def closing_table(console: Console, state: JobState) -> None:
    """Print the results of a job and where its time went."""
    if state.label_n:
        table = Table(title="segments")
        for heading in ("label", "segments", "hours"):
            table.add_column(heading, justify="left" if heading == "label" else "right")
        for label, seconds in _largest_first(state.label_s):
            table.add_row(plain(label), str(state.label_n[label]), f"{seconds / 3600:.3f}")
        console.print(table)
    before = f", {state.n_videos_before} were done before" if state.n_videos_before else ""
    again = f", {state.n_chunks_before} chunks were finished before" if state.n_chunks_before else ""
    speed = state.video_done_s / state.wall_s if state.wall_s else 0.0
    lines = [
        f"{state.n_videos_done} videos, {state.covered_s / 3600:.3f} h covered, "
        f"{state.n_failed} failed, {state.n_partial} partial{before}{again}",
        f"{state.wall_s:.1f} s, {speed:.1f} video-hours/h; {state.n_chunks_done} chunks decoded, "
        f"{state.n_decoded} frames decoded, {state.n_frames} sampled, {state.n_boxes} boxes",
    ]
    if state.n_forecasts:
        lines.append(f"{state.n_forecasts} forecasts of people's paths")
    total_s = sum(state.stage_s.values())
    if state.n_chunks_done and total_s:
        shares = ", ".join(
            f"{_STAGE_NAMES[stage]} {seconds:.1f} s"
            for stage, seconds in _largest_first(state.stage_s)
            if seconds >= 0.05
        )
        worst, worst_s = _largest_first(state.stage_s)[0]
        lines.append(f"worker time: {shares}; bottleneck: {_STAGE_NAMES[worst]} ({100 * worst_s / total_s:.0f} %)")
    lines += [f"layout {state.layout}; {state.runtime}".removesuffix("; ")]
    lines += [state.advice] if state.advice else []
    lines += _unlike(state.judged_s, state.unlike_s)
    lines += [f"failed: {message}" for message in state.failures]
    if state.n_failures > len(state.failures):
        lines.append(f"... and {state.n_failures - len(state.failures)} more: SELECT * FROM failures")
    lines.append(f"lake: {state.lake}")
    for line in lines:
        console.print(plain(line), highlight=False, soft_wrap=True)


# Share of the labelled time that is worth a warning. A twentieth of the training data is unlike it by this measure; for
# new people in similar rooms it is 3 to 8 %.
_MUCH = 0.15


def _unlike(judged_s: float, unlike_s: float) -> list[str]:
    """Return a line that says how much of the labelled time is unlike the training data, if it is much."""
    if unlike_s < _MUCH * judged_s or not unlike_s:
        return []
    from pipeline.steps.label import UNLIKE

    return [
        f"{100 * unlike_s / judged_s:.0f} % of the labelled time is unlike the model's training data: its novelty "
        f"is above {UNLIKE:g}, where {100 * (1 - UNLIKE):.0f} % is usual. Check some of it, and label it to "
        "train your own model: see docs/your-own-activities.md"
    ]


_FIGURE_NAMES = {
    "accuracy": "accuracy over annotated spans",
    "frame_accuracy": "frame accuracy",
    "edit": "edit score",
    "f1@10": "F1 at an overlap of 10 %",
    "f1@25": "F1 at an overlap of 25 %",
    "f1@50": "F1 at an overlap of 50 %",
    "map@0.5": "mAP at tIoU 0.5",
    "map@0.3:0.7": "mAP, mean of tIoU 0.3 to 0.7",
    "map@0.5:0.95": "mAP, mean of tIoU 0.5 to 0.95",
    "boundary_error_s": "error of starts and ends (s)",
    "calibration_error": "expected calibration error",
}


def evaluation_tables(console: Console, found: LakeEvaluation) -> None:
    """Print the evaluation of a lake's segments: first the figures with their intervals, then each label."""
    evaluation = found.evaluation
    figures = Table(title=f"{plain(found.model)}: {evaluation.n_spans} spans in {evaluation.n_videos} videos")
    for heading in ("figure", "value", "95 % over videos"):
        figures.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, heading in _FIGURE_NAMES.items():
        figure = evaluation.figures[name]
        figures.add_row(heading, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}")
    console.print(figures)
    labels = Table(title="by label, segments at an overlap of 25 %")
    for heading in ("label", "annotated", "found", "precision", "recall", "F1", "AP at 0.5"):
        labels.add_column(heading, justify="left" if heading == "label" else "right")
    for name, of_label in evaluation.per_label.items():
        rates = (of_label["precision"], of_label["recall"], of_label["f1"], evaluation.average_precision[name]["0.5"])
        counts = (f"{of_label['n_true']:.0f}", f"{of_label['n_found']:.0f}")
        labels.add_row(plain(name), *counts, *(f"{rate:.3f}" for rate in rates))
    console.print(labels)
    if found.n_missing:
        console.print(f"{found.n_missing} annotated videos are not in the lake and were left out", highlight=False)


def _largest_first(totals: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(totals.items(), key=lambda item: -item[1])


def training_table(console: Console, result: TrainResult) -> None:
    """Print the accuracy of a model on videos that it was not trained on, for each split."""
    from pipeline.training.validation import FIGURES

    table = Table(title=f"{result.bundle.name}: accuracy on videos not trained on")
    for heading in ("split", *(figure.replace("_", " ") for figure in FIGURES), "spans"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in result.metrics["splits"].items():
        table.add_row(name, *(f"{split[figure]:.3f}" for figure in FIGURES), str(split["n_spans"]))
    for kind, mean in result.metrics["means"].items():
        table.add_row(f"mean of {kind}", *(f"{mean[figure]:.3f}" for figure in FIGURES), "")
    console.print(table)


def teaching_table(console: Console, result: TeachResult) -> None:
    """Print the accuracy before and after teaching, measured on the answers that were held out."""
    if not result.results:
        console.print("the answers are of too few videos to measure on some of them", highlight=False)
        return
    table = Table(title=f"{result.n_answers} answers, {result.n_held_out} of them held out to measure on")
    for heading in ("model", "right spans", "right time", "segment F1"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, found in result.results.items():
        figures = (found[figure] for figure in ("accuracy", "frame_accuracy", "segment_f1"))
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    before, after = (found["frame_accuracy"] for found in result.results.values())
    if after < before:
        console.print(
            "less time is labelled right than before: look for mistakes in the answers, or add more before you use it",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def labelled_table(console: Console, state: ClassifyState) -> None:
    """Print the number of new segments for each label."""
    if not state.n_videos:
        console.print(f"{plain(state.model)} has labelled all of this lake before", highlight=False)
        return
    table = Table(title=f"new segments by {state.model}")
    table.add_column("label")
    table.add_column("segments", justify="right")
    for label, n in state.label_n.most_common():
        table.add_row(plain(label), str(n))
    console.print(table)
    for line in _unlike(state.judged_s, state.unlike_s):
        console.print(line, highlight=False, soft_wrap=True)


def agreement_tables(console: Console, found: Agreement, one: str, other: str) -> None:
    """Print how far two reviewers agree on the segments that both answered, and a table of their label pairs.

    Args:
        console: Console to print to.
        found: The measured agreement.
        one: Name of the answers in the rows of the second table.
        other: Name of the answers in its columns.
    """
    table = Table(title=f"{found.n_both} segments answered by both")
    for heading in ("label", "given by either", "same", "Cohen's kappa"):
        table.add_column(heading, justify="left" if heading == "label" else "right")
    for label, (n, same, kappa) in found.by_label.items():
        table.add_row(plain(label), str(n), f"{same:.3f}", "" if math.isnan(kappa) else f"{kappa:.3f}")
    console.print(table)
    console.print("same: share of all segments to which both give this label, or neither does", highlight=False)
    labels = sorted({label for pair in found.pairs for label in pair})
    # A dozen label names are wider than a terminal: the columns have numbers, and the rows explain them.
    table = Table()
    table.add_column("label")
    for number in range(1, len(labels) + 1):
        table.add_column(str(number), justify="right")
    for number, row in enumerate(labels, start=1):
        counts = (found.pairs[row, column] for column in labels)
        table.add_row(f"{number} {plain(row)}", *(str(n) if n else "" for n in counts))
    console.print(table)
    console.print(f"rows: labels of {plain(one)}; columns: those of {plain(other)}", highlight=False, soft_wrap=True)


def answer_table(console: Console, answer: pa.Table) -> None:
    """Print the answer to a query."""
    table = Table()
    for name in answer.column_names:
        table.add_column(name)
    for row in zip(*(column.to_pylist() for column in answer.columns), strict=True):
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def hits_table(hits: Sequence[Hit], labelled: bool) -> pa.Table:
    """Return the hits of a search as a table. `labelled` adds the label or text that each is like."""
    import pyarrow as pa

    columns = {
        "likeness": pa.array([hit.likeness for hit in hits], pa.float64()),
        "video": pa.array([hit.uri for hit in hits], pa.string()),
        "start_s": pa.array([hit.start_s for hit in hits], pa.float64()),
        "end_s": pa.array([hit.end_s for hit in hits], pa.float64()),
        "person": pa.array([hit.track_id for hit in hits], pa.int64()),
        "labels": pa.array([", ".join(hit.labels) for hit in hits], pa.string()),
    }
    if labelled:
        columns["like"] = pa.array([hit.like for hit in hits], pa.string())
    return pa.table(columns)


def benchmark_table(console: Console, found: Benchmark) -> None:
    """Print the time of a job and of each of its stages run alone."""
    from pipeline.engine.benchmark import median_and_range

    alone = found.alone[0]
    table = Table(
        title=f"{alone.video_s / 60:.1f} min of video, {alone.n_frames} frames, {alone.n_boxes} boxes of people"
    )
    for heading in ("stage alone, on one core", "seconds", "core-seconds per video-hour"):
        table.add_column(heading, justify="left" if heading.startswith("stage") else "right")
    for name in alone.stages:
        seconds = [trial.stages[name] for trial in found.alone]
        per_hour = [trial.stages[name] / trial.video_s * 3600 for trial in found.alone]
        table.add_row(name, median_and_range(seconds, 1), median_and_range(per_hour, 0))
    console.print(table)
    for line in (
        f"job, from command to prompt: {median_and_range(found.job_s, 1)} s on {found.cpus} cores",
        f"video-hours per hour: {median_and_range(found.hours_per_hour, 1)}",
        f"efficiency (time of the stages alone on all cores / job time): {median_and_range(found.efficiency)}",
        f"work between the stages / job time: {median_and_range(found.between)}",
        f"cores that start, wait, end, or slow each other down / job time: {median_and_range(found.rest)}",
    ):
        console.print(line, soft_wrap=True)


def info_table(console: Console, reader: LakeReader, store: Lake) -> None:
    """Print what a lake holds and how its features were made."""
    counts = reader.sql(
        "SELECT count(*) AS videos, coalesce(sum(covered_s), 0) / 3600 AS hours,"
        " count(*) FILTER (status = 'partial') AS partial, count(*) FILTER (status = 'failed') AS failed FROM videos"
    ).to_pylist()[0]
    open_shards = len(store.planned()) - len(store.committed())
    table = Table(title=f"lake {plain(store.uri)}", show_header=False)
    table.add_row("videos", f"{counts['videos']} ({counts['partial']} partial, {counts['failed']} failed)")
    table.add_row("hours covered", f"{counts['hours']:.2f}")
    table.add_row("shards", f"{len(store.committed())} committed, {open_shards} open")
    for name in ("segments", "detections", "features", "failures"):
        table.add_row(name, str(reader.dataset(name).count_rows()))
    table.add_row("models", ", ".join(store.models()) or "none")
    table.add_row("features made with", ", ".join(f"{k} = {v}" for k, v in sorted(reader.feature_options.items())))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else plain(str(value))


def forecaster_table(console: Console, bundle: ForecasterBundle) -> None:
    """Print the errors of a forecaster and of its baselines."""
    unit = "m" if bundle.unit == "m" else "heights of the person"
    table = Table(title=f"{plain(bundle.name)}: distance from the true path, {unit}")
    for heading in ("", "ADE", "FDE", "best of 20: ADE", "FDE", "in 1 sigma (0.393)", "windows"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, figures in bundle.metrics.items():
        told = [f"{figures[key]:.3f}" for key in ("ade", "fde", "best_ade", "best_fde", "one_sigma")]
        table.add_row(bundle.name if name == "model" else name.replace("_", " "), *told, str(figures["n"]))
    console.print(table)


def places_tables(console: Console, found: Places, zones: Sequence[str], lines: Sequence[str]) -> None:
    """Print the visits to zones and the crossings of lines."""
    if zones:
        table = Table(title="zones")
        for heading in ("zone", "stays", "people", "entries", "exits", "mean stay", "longest"):
            table.add_column(heading, justify="left" if heading == "zone" else "right")
        for name in zones:
            stays = [row for row in found.visits.to_pylist() if row["zone"] == name]
            dwell = [row["dwell_s"] for row in stays]
            table.add_row(
                plain(name), str(len(stays)), str(len({(row["video_id"], row["track_id"]) for row in stays})),
                str(sum(not row["was_there"] for row in stays)), str(sum(not row["stays"] for row in stays)),
                f"{sum(dwell) / len(dwell):.1f} s" if dwell else "", f"{max(dwell):.1f} s" if dwell else "",
            )  # fmt: skip
        console.print(table)
    if lines:
        table = Table(title="lines")
        for heading in ("line", "crossed to the right", "to the left", "expected crossings", "most probable"):
            table.add_column(heading, justify="left" if heading == "line" else "right")
        for name in lines:
            ways = Counter(row["direction"] for row in found.crossings.to_pylist() if row["line"] == name)
            expected = [row for row in found.expected.to_pylist() if row["line"] == name]
            best = max(expected, key=lambda row: row["probability"], default=None)
            words = f"person {best['track_id']} in {best['in_s']:.1f} s, {best['probability']:.0%}" if best else ""
            table.add_row(plain(name), str(ways["right"]), str(ways["left"]), str(len(expected)), words)
        console.print(table)


def pack_table(console: Console, packed: Pack) -> None:
    """Print the measurements of a pack's networks."""
    from pipeline.edge.compare import Outcome

    table = Table(title=plain(str(packed.folder)))
    for heading in ("runtime", "precision", *Outcome.HEADINGS):
        table.add_column(heading, justify="left" if heading in ("runtime", "precision") else "right")
    for outcome in packed.outcomes:
        table.add_row(outcome.runtime, outcome.precision, *outcome.cells())
    console.print(table)
