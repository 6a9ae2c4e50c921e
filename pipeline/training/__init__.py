"""Train activity models on labelled video."""
