"""Peer with Ray Data: `read_videos -> map_batches -> write_parquet`, as in its documentation on batch inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from tests.bench.peers.common import BATCH, FRAME_SIZE, SAMPLE_FPS, SCHEMA, Analyser, Task, run


class Mapper:
    def __init__(self, task: Task) -> None:
        self._analyser = Analyser(task)

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        rows: list[dict[str, Any]] = []
        # A timestamp is a pair: when the frame begins to be shown, and when it ends.
        for of_frame in self._analyser.rows(list(batch["frame"]), batch["frame_timestamp"][:, 0].tolist()):
            rows += of_frame
        return pa.Table.from_pylist(rows, SCHEMA)


def main(task: Task) -> None:
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    frames = ray.data.read_videos(
        str(task.video), fps=SAMPLE_FPS, resize=(FRAME_SIZE[1], FRAME_SIZE[0]), include_timestamps=True
    )
    # One core reads; when it is done, a second mapper takes it.
    rows = frames.map_batches(Mapper, batch_size=BATCH, concurrency=(1, 2), num_cpus=1, fn_constructor_args=(task,))
    rows.write_parquet(str(task.out))


if __name__ == "__main__":
    run(main)
