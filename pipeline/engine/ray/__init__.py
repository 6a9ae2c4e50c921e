"""Run the steps on a Ray cluster, or on a Ray of this machine: the only place that imports it, but for training."""
