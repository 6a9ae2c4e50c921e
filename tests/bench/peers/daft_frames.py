"""Peer with Daft: `read_video_frames`, a Daft class with a batch method, and `write_parquet`."""

from __future__ import annotations

from typing import Any

import daft
from daft import DataType, Series, col

from tests.bench.peers.common import BATCH, FRAME_SIZE, SAMPLE_FPS, Analyser, Task, run

_ROW = DataType.struct(
    {
        "score": DataType.float32(),
        **{side: DataType.float32() for side in ("x1", "y1", "x2", "y2")},
        "embedding": DataType.list(DataType.float32()),
    }
)


@daft.cls(max_concurrency=2, use_process=True)
class Mapper:
    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(1)
        self._analyser = Analyser(task)

    @daft.method.batch(return_dtype=DataType.list(_ROW), batch_size=BATCH)
    def people(self, frames: Series, times_s: Series) -> list[list[dict[str, Any]]]:
        of_frames = self._analyser.rows(frames.to_pylist(), times_s.to_pylist())
        return [
            [{name: value for name, value in row.items() if name != "frame_s"} for row in of_frame]
            for of_frame in of_frames
        ]


def main(task: Task) -> None:
    width, height = FRAME_SIZE
    frames = daft.read_video_frames(
        str(task.video), image_height=height, image_width=width, sample_interval_seconds=1 / SAMPLE_FPS
    )
    mapper = Mapper(task)
    people = frames.select(
        col("frame_time").alias("frame_s"), mapper.people(col("data"), col("frame_time")).alias("row")
    )
    rows = people.explode("row").where(col("row").not_null())
    names = ("score", "x1", "y1", "x2", "y2", "embedding")
    rows.select(col("frame_s"), *(col("row").get(name).alias(name) for name in names)).write_parquet(str(task.out))


if __name__ == "__main__":
    run(main)
