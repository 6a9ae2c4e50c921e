"""Write a model card from what a bundle knows of itself."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pipeline.activity.bundle import Bundle
from pipeline.activity.heads import REMEMBERING
from pipeline.activity.spec import ModelSpec, of_tracks_alone, seen
from pipeline.config import OF_DETECTOR
from pipeline.motion.forecaster_bundle import METRES, ForecasterBundle
from pipeline.training.validation import FIGURES
from pipeline.vision.detector_bundle import DetectorBundle
from pipeline.vision.people_architecture import is_people


def model_card(bundle: Bundle) -> str:
    """Return the card as Markdown: what the model does, what it was trained on, what was measured."""
    spec, training = bundle.spec, bundle.training
    n_parameters = sum(weights.size for weights in bundle.weights.values())
    splits = bundle.metrics["splits"]
    rows = [
        f"| {name} | {' | '.join(_figures(result))} | {result['n_train']} | {result['n_test']} |"
        for name, result in splits.items()
    ]
    if len(splits) > 1:
        rows += [
            f"| **mean of {kind}** | {' | '.join(f'**{figure}**' for figure in _figures(average))} | | |"
            for kind, average in bundle.metrics["means"].items()
        ]
    background = f" It also knows `{bundle.background}`, which gives no segment." if bundle.background else ""
    activities = [label for label in bundle.labels if label != bundle.background]
    mapping = ", ".join(f"{old} as {new or 'nothing'}" for old, new in training.get("label_map", {}).items())
    renamed = f" Annotated labels were taken as others: {mapping}." if mapping else ""
    options = ", ".join(f"{name} {value}" for name, value in training["options"].items())
    return f"""# {bundle.name}

Labels what is done in a video, for every {1 / bundle.sample_fps:.3f} s of it, by {_described(spec)}
({n_parameters / 1e6:.1f} million parameters) over {_described_by(bundle)}
(scope `{bundle.scope}`, {bundle.sample_fps:g} frames/s). Its inputs: {", ".join(spec.inputs)}.

**Activities** ({len(activities)}): {", ".join(activities)}.{background}
{_meanings(training)}
## Training data

{training["note"] or "Not stated."}

{training["n_videos"]} videos{_skeletons(training)}.
The shipped weights were trained on: {training["trained_on"]}.{renamed}

## Accuracy on videos not trained on

| split | accuracy | mean class accuracy | frame accuracy | segment F1@25 | calibration error | trained on | tested |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Accuracy: share of annotated spans whose highest mean log score is that of their label. Mean class accuracy: the same,
averaged over activities. Frame accuracy: share of labelled steps that are right. Segment F1@25: a segment counts as
right if it shares a quarter of the union with a span of its label. Calibration error: by how much the score of an
answer differs from the share of such answers that is right (15 bins). Where nobody was found, all counts as wrong.
Trained on and tested: videos. Models whose figures are in the table were trained on the training part of their split
alone, and calibrated on {_calibrated_on(splits)}.
The shipped one's temperature: {spec.temperature:.2f}.

## Limits

It knows its activities only, and will call anything by the nearest of them: look at the score{_look_at_novelty(spec)}.
It was not tested on footage of other kinds than its training data. Do not use it for decisions about people without a
person in the loop.

## Made with

{options}; segments: {_told(asdict(bundle.segments))}
"""


def _meanings(training: dict[str, Any]) -> str:
    meanings: dict[str, str] = training.get("meanings", {})
    rows = [f"| `{label}` | {meaning} |" for label, meaning in sorted(meanings.items())]
    return "\n".join(["", "| label | meaning |", "| --- | --- |", *rows, ""]) if rows else ""


def _look_at_novelty(spec: ModelSpec) -> str:
    return ", and at the novelty" if spec.energies else ""


def _calibrated_on(splits: dict[str, dict[str, Any]]) -> str:
    unknown = "a part of it that was held out for that"
    return ", or ".join(sorted({result.get("calibrated_on", unknown) for result in splits.values()}))


def _skeletons(training: dict[str, Any]) -> str:
    n: int = training.get("n_skeletons", 0)
    return f", and {n} skeletons in 3D, each seen from somewhere" if n else ""


def detector_card(bundle: DetectorBundle) -> str:
    """Return the card of a detector as Markdown."""
    training, metrics = bundle.training, bundle.metrics
    n_parameters = sum(weights.size for weights in bundle.weights.values())
    before = "".join(
        f"\nThe {part} before that: {_told(training[part].get('options', {}))}\n\n{training[part].get('note', '')}\n"
        for part in ("boxes", "keypoints")
        if part in training
    )
    keypoints = f" Keypoints: AP50 {metrics['keypoints_ap50']:.3f}." if "keypoints_ap50" in metrics else ""
    if "keypoints_pck" in metrics:
        keypoints = (
            f"\nOf the visible keypoints, {metrics['keypoints_pck']:.3f} lie within a fifth of the trunk's length of"
            "\nwhere the labels have them, given the boxes of the labels."
        )
    return f"""# {bundle.name}

Finds: {", ".join(bundle.names.values())}. Input: images of {bundle.px} px on the longest side. Network:
`{training["options"]["architecture"]}`, {n_parameters / 1e6:.1f} million parameters, trained from
{_origin(bundle)} with Ultralytics' trainer.

## Training data

{training["note"] or "Not stated."}

The labels are boxes of a stronger detector, not of people who looked: it has learnt that one's mistakes, too.

## On the held-out images of that data set

AP50 {metrics["ap50"]:.3f}, precision {metrics["precision"]:.3f}, recall {metrics["recall"]:.3f} against the boxes of
the stronger detector.{keypoints}

## Limits

It has seen no other footage than what is named above. Do not use it for decisions about people without a person in the
loop.

## Made with

{_told(training["options"])}
{before}"""


def _told(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items() if value != "")


def _origin(bundle: DetectorBundle) -> str:
    """Return what a detector's weights were before its training."""
    options = bundle.training["options"]
    if options.get("start"):
        kept = "" if options["epochs"] else ", whose boxes stay as they are,"
        return f"the weights of `{options['start']}`{kept}"
    if options.get("freeze_backbone") and is_people(bundle.architecture):
        return "random weights, but for the backbone, which keeps those of ImageNet,"
    return "random weights"


def _described_by(bundle: Bundle) -> str:
    if of_tracks_alone(bundle.spec.inputs):
        return f"the tracks of people that the detector `{bundle.detector}` finds"
    if bundle.embedder == OF_DETECTOR:
        return f"what the detector `{bundle.detector}` sees at one look"
    return f"`{bundle.embedder}` embeddings"


def _described(spec: ModelSpec) -> str:
    if len(spec.views) > 1:
        one = _described(replace(spec, views=spec.views[:1]))
        sees_less = seen(spec.views[-1], spec.inputs) != spec.inputs
        blind = ", the last of which sees motion alone" if sees_less else ""
        return f"the mean of {len(spec.views)} networks{blind}, each {one}"
    direction = "bidirectional" if spec.bidirectional else "forward"
    layers = f"{spec.num_layers} x {spec.hidden_dim} units"
    if spec.head == "transformer":
        return f"a {direction} transformer of {layers} that sees {spec.reach} steps a layer"
    if spec.head in REMEMBERING:
        return f"a {direction} {spec.head.upper()} with {layers}"
    return f"a {spec.head} baseline"


def _figures(result: dict[str, float]) -> list[str]:
    return [f"{result[figure]:.3f}" if figure in result else "" for figure in FIGURES]


def forecaster_card(bundle: ForecasterBundle) -> str:
    """Return the card of a forecaster as Markdown."""
    spec, training = bundle.spec, bundle.training
    unit = "m" if bundle.unit == METRES else "heights of the person"
    n_parameters = sum(weights.size for weights in bundle.weights.values())
    rows = [
        f"| {name.replace('_', ' ')} | {figures['ade']:.3f} / {figures['fde']:.3f} | "
        f"{figures['best_ade']:.3f} / {figures['best_fde']:.3f} | {figures['one_sigma']:.3f} | {figures['n']} |"
        for name, figures in bundle.metrics.items()
    ]
    test = training["test"] if isinstance(training["test"], str) else ", ".join(training["test"])
    options = ", ".join(f"{name} {value}" for name, value in {**training["options"], **training["reading"]}.items())
    return f"""# {bundle.name}

Foretells the paths of people from their boxes: out of {bundle.n_observed} steps of {bundle.step_s:g} s the next
{spec["n_foretold"]}, in {unit}. {spec["n_members"]} x {spec["kind"]}, {spec["hidden_dim"]} units, {spec["n_paths"]}
paths each ({n_parameters / 1e3:.0f} thousand parameters).

## Training data

{training["note"] or "Not stated."}

{training["n_windows"]} windows of {training["n_scenes"]} scenes: {", ".join(training["tracks"])}.

## Measured on {test}

| forecaster | ADE / FDE | best of 20: ADE / FDE | in the ellipse of one standard deviation | windows |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

ADE and FDE: distance from what came true, in {unit}, over all steps and at the last.
Best of 20: of 20 drawn paths the nearest. A Gaussian that is right holds 0.393 in its ellipse of one standard
deviation.

## Limits

The camera does not move. What somebody wants, it can't know: who stops or turns without a sign is not foretold.
Do not use it for decisions about people without a person in the loop.

## Made with

{options}
"""
