"""Write an evaluation as plots for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UsageError
from pipeline.training.cases import LakeEvaluation
from pipeline.training.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Most labels in one plot. If there are more, it shows the most frequent ones.
_MOST_LABELS = 60
# A confusion matrix shows numbers in its cells up to this number of columns.
_MOST_NUMBERED = 30


def write_evaluation(found: LakeEvaluation, folder: str | Path) -> list[Path]:
    """Write `evaluation.json`, `confusion.png`, `reliability.png` and `labels.png`, and return their paths.

    Raises:
        UsageError: The folder can't be written to.
    """
    target = Path(folder)
    record = {"model": found.model, "n_missing": found.n_missing, **found.evaluation.to_json()}
    paths = [target / name for name in ("evaluation.json", "confusion.png", "reliability.png", "labels.png")]
    try:
        target.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(_without_nan(record), indent=1) + "\n", encoding="utf-8")
        _draw(paths[1], _confusion, found)
        _draw(paths[2], _reliability, found)
        _draw(paths[3], _labels, found)
    except OSError as error:
        raise UsageError(f"{target}: can't be written to ({error.strerror})") from error
    return paths


def _draw(path: Path, draw: Any, found: LakeEvaluation) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot, no display is needed.
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes, found.evaluation)
    axes.set_title(f"{axes.get_title()}\n{found.model}, {found.evaluation.n_videos} videos", fontsize=11)
    figure.savefig(path, dpi=130)


def _shown(evaluation: Evaluation) -> list[int]:
    """Return the labels that are annotated or found most often, sorted by name."""
    confusion = np.array(evaluation.confusion)
    total = confusion.sum(axis=1) + confusion[:, :-1].sum(axis=0)
    return sorted(sorted(np.flatnonzero(total).tolist(), key=lambda i: -total[i])[:_MOST_LABELS])


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    counts = np.array(evaluation.confusion)
    shown = _shown(evaluation)
    rows = [i for i in shown if counts[i].any()]
    columns = [*shown, len(evaluation.labels)]
    shares = counts[rows][:, columns] / counts[rows].sum(axis=1, keepdims=True)
    size = max(5.0, 0.34 * len(columns))
    axes.figure.set_size_inches(size + 2.2, max(4.0, 0.34 * len(rows)) + 2.2)  # type: ignore[union-attr]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [*(evaluation.labels[i] for i in shown), "(nothing)"], rotation=90)
    axes.set_yticks(range(len(rows)), [f"{evaluation.labels[i]} ({counts[i].sum()})" for i in rows])
    axes.set_xlabel("predicted as")
    axes.set_ylabel("annotated (spans)")
    if len(columns) <= _MOST_NUMBERED:
        for (y, x), share in np.ndenumerate(shares):
            if share:
                axes.text(
                    x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if share > 0.5 else "black",
                )  # fmt: skip
    axes.figure.colorbar(image, ax=axes, label="share of the annotated spans")
    accuracy = evaluation.figures["accuracy"]
    axes.set_title(f"confusion, accuracy {accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})")


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    axes.figure.set_size_inches(5.6, 5.4)  # type: ignore[union-attr]
    bins = evaluation.reliability
    total = sum(each.weight for each in bins) or 1.0
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfect calibration")
    axes.bar(
        [each.confidence for each in bins], [each.weight / total for each in bins],
        width=0.03, color="lightsteelblue", label="share of the time",
    )  # fmt: skip
    axes.plot(
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        marker="o",
        color="tab:blue",
        label="accuracy",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score of the segment", ylabel="accuracy (share of its time)")
    axes.legend(loc="upper left")
    axes.set_title(f"reliability, calibration error {evaluation.figures['calibration_error'].value:.3f}")


def _labels(axes: Axes, evaluation: Evaluation) -> None:
    shown = [i for i in _shown(evaluation) if evaluation.labels[i] in evaluation.per_label]
    names = [evaluation.labels[i] for i in shown]
    axes.figure.set_size_inches(7.5, max(3.0, 0.36 * len(names) + 1.6))  # type: ignore[union-attr]
    places = np.arange(len(names))
    bars = {
        "AP, tIoU 0.5": [evaluation.average_precision[name]["0.5"] for name in names],
        "F1 at 25 %": [evaluation.per_label[name]["f1"] for name in names],
    }
    for offset, (label, values) in zip((-0.2, 0.2), bars.items(), strict=True):
        axes.barh(places + offset, values, height=0.4, label=label)
    axes.set_yticks(places, [f"{name} ({evaluation.per_label[name]['n_true']:.0f})" for name in names])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), ylabel="label (annotated spans)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title(f"by label, mAP {evaluation.figures['map@0.5'].value:.3f} at tIoU 0.5")


def _without_nan(value: Any) -> Any:
    """Return the value with None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
