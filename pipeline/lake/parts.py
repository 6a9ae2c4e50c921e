"""Read the parts of a lake: their rows, and their footers, which tell how the rows were made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ActionlakeError
from pipeline.lake.store import Lake, part_name


def read_part(lake: Lake, folder: str, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of one part, or some columns of them.

    Raises:
        ActionlakeError: The part is damaged.
    """
    # Read as a file, not as a data set, so that the folder's name does not become a column.
    with lake.fs.open_input_file(lake.path(folder, part_name(shard))) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            return file.read(columns=list(columns) if columns is not None else None)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(lake, folder, shard, error) from error


def _damaged(lake: Lake, folder: str, shard: int, error: Exception) -> ActionlakeError:
    """Return the error for a part that can't be read."""
    return ActionlakeError(
        f"{lake.uri}/{folder}/{part_name(shard)}: damaged ({' '.join(str(error).split())[:200]}); "
        f"`actionlake verify --lake {lake.uri} --repair` takes it out, then the same command makes it again"
    )


def by_video(table: pa.Table) -> Iterator[tuple[str, pa.Table, int]]:
    """Yield id, rows and index of the first row of each video of a table in which its rows are adjacent."""
    if not len(table):
        return
    ids = table["video_id"].to_numpy()
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    for start, end in zip(starts, np.append(starts[1:], len(ids)), strict=True):
        yield ids[start], table.slice(start, end - start), int(start)


def footer_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the footer of a part, given its schema.

    Raises:
        KeyError: It has none.
        ValueError: It can't be read.
    """
    footer: dict[str, Any] = json.loads((schema.metadata or {})[b"actionlake"])
    return footer


def schema_at(lake: Lake, folder: str, shard: int) -> pa.Schema:
    """Return the schema of a shard's part, with its footer.

    Raises:
        ActionlakeError: The part is damaged.
    """
    with lake.fs.open_input_file(lake.path(folder, part_name(shard))) as source:
        try:
            return pq.read_schema(source)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(lake, folder, shard, error) from error


def footer_at(lake: Lake, folder: str, shard: int) -> dict[str, Any]:
    """Return the footer of a shard's part.

    Raises:
        ActionlakeError: The part is damaged.
    """
    schema = schema_at(lake, folder, shard)
    try:
        return footer_of(schema)
    except (KeyError, ValueError) as error:
        raise _damaged(lake, folder, shard, error) from error


def states(footer: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a footer states exactly these facts. Earlier versions did not store the options of models."""
    stated = {"model_options": facts.get("model_options"), **footer}
    return all(stated.get(name) == value for name, value in facts.items())
