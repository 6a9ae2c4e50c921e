"""Write a model card from what a bundle knows of itself."""

from __future__ import annotations

from pipeline.activity.bundle import Bundle


def model_card(bundle: Bundle) -> str:
    """Return the card as Markdown: what the model does, what it was trained on, what was measured."""
    spec, training = bundle.model.spec, bundle.training
    direction = "bidirectional" if spec.bidirectional else "forward"
    n_parameters = sum(weights.numel() for weights in bundle.model.parameters())
    splits = bundle.metrics["splits"]
    rows = [
        f"| {name} | {result['accuracy']:.3f} | {result['mean_class_accuracy']:.3f} | {result['frame_accuracy']:.3f} "
        f"| {result['n_train']} | {result['n_test']} |"
        for name, result in splits.items()
    ]
    average = bundle.metrics["mean"]
    if len(splits) > 1:
        rows.append(
            f"| **mean** | **{average['accuracy']:.3f}** | **{average['mean_class_accuracy']:.3f}** "
            f"| **{average['frame_accuracy']:.3f}** | | |"
        )
    options = ", ".join(f"{name} {value}" for name, value in training["options"].items())
    return f"""# {bundle.name}

Labels what is done in a video, for every {1 / bundle.sample_fps:.3f} s of it, by a {direction} LSTM with
{spec.num_layers} x {spec.hidden_dim} units ({n_parameters / 1e6:.1f} million parameters) over `{bundle.embedder}`
embeddings (scope `{bundle.scope}`, {bundle.sample_fps:g} frames/s).

**Activities** ({len(bundle.labels)}): {", ".join(bundle.labels)}.

## Training data

{training["note"] or "Not stated."}

{training["n_videos"]} videos; the shipped weights were trained on: {training["trained_on"]}.

## Accuracy on videos not trained on

| split | accuracy | mean class accuracy | frame accuracy | videos trained on | videos tested |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Accuracy: share of annotated spans whose highest mean log score is that of their label. Mean class accuracy: the same,
averaged over activities. Frame accuracy: share of labelled steps that are right. Models whose figures are in the table
were trained on the training part of their split alone; nothing was chosen by looking at a test part.

## Limits

It knows its activities only, and will call anything by the nearest of them: look at the score. It was not tested on
footage of other kinds than its training data. Do not use it for decisions about people without a person in the loop.

## Made with

{options}
"""
