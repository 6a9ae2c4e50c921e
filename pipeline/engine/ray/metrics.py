"""The progress of a job, as metrics of Ray. Every node of a cluster exports them for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipeline.engine.board import JobState

_COUNTED = {
    "actionlake_chunks": ("n_chunks_done", "Chunks extracted."),
    "actionlake_video_seconds": ("video_done_s", "Seconds of video extracted."),
    "actionlake_frames_decoded": ("n_decoded", "Frames that left the decoders."),
    "actionlake_frames": ("n_frames", "Frames sampled."),
    "actionlake_boxes": ("n_boxes", "Boxes found."),
    "actionlake_videos": ("n_videos_done", "Videos committed."),
    "actionlake_videos_failed": ("n_failed", "Videos committed of which nothing could be used."),
    "actionlake_videos_partial": ("n_partial", "Videos committed of which not all could be used."),
    "actionlake_failures": ("n_failures", "Rows written to the table of failures."),
}


class JobMetrics:
    """Keeps the metrics of a job in step with its state."""

    def __init__(self, lake_uri: str) -> None:
        """Make the metrics on the cluster that is joined. A tag names the lake."""
        tags = {"lake": lake_uri}
        self._counters = {name: Counter(name, said, ("lake",)) for name, (_, said) in _COUNTED.items()}
        self._stages = Counter(
            "actionlake_stage_seconds", "Seconds of work of all workers, by stage.", ("lake", "stage")
        )
        self._chunks_left = Gauge("actionlake_chunks_left", "Chunks that are planned and not extracted.", ("lake",))
        for metric in (*self._counters.values(), self._stages, self._chunks_left):
            metric.set_default_tags(tags)
        self._before: dict[str, float] = {}

    def update(self, state: JobState) -> None:
        """Add what has increased since the last call."""
        for name, (attribute, _) in _COUNTED.items():
            self._count(self._counters[name], name, getattr(state, attribute), {})
        for stage, seconds in state.stage_s.items():
            self._count(self._stages, f"stage {stage}", seconds, {"stage": stage})
        self._chunks_left.set(state.n_chunks - state.n_chunks_done)

    def _count(self, counter: Counter, key: str, value: float, tags: Mapping[str, str]) -> None:
        more = value - self._before.get(key, 0.0)
        if more > 0:
            counter.inc(more, dict(tags))
            self._before[key] = value
