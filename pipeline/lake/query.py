"""Query a lake with DuckDB, pyarrow or pandas."""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from fsspec.implementations.arrow import ArrowFSWrapper
from numpy.typing import NDArray
from pyarrow import fs as pafs

from pipeline.errors import UsageError
from pipeline.lake.schemas import ADDED_LATER, OF_MODELS, TABLES, VECTOR_COLUMNS
from pipeline.lake.sequences import VideoRows, committed_videos
from pipeline.lake.store import Lake, model_folder, part_name
from pipeline.lake.views import VIEWS

if TYPE_CHECKING:
    import pandas as pd


QUERY_TIMEOUT_S = 300.0
QUERY_MEMORY_GB = 4.0
_ANSWER_ROWS = 100_000
# A message names at most this many videos.
_NAMED = 5
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
# DuckDB reads half floats from Parquet, but not from Arrow, so an empty table of features leaves them out.
_READABLE = {"features": [name for name in TABLES["features"].names if name not in VECTOR_COLUMNS]}


class _LakeFileSystem(ArrowFSWrapper):  # type: ignore[misc]
    """Lets DuckDB read through whatever file system the lake lies on."""

    protocol = "lake"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """Return the path in the spelling of Arrow's file system: the bucket first, without a leading slash."""
        return path.removeprefix(f"{cls.protocol}://")


class LakeReader:
    """A lake, opened for reading. Only committed shards are seen.

    Example:
        >>> lake = open_lake("lake")  # doctest: +SKIP
        >>> lake.sql("SELECT label, sum(end_s - start_s) FROM segments GROUP BY label").to_pandas()  # doctest: +SKIP
    """

    def __init__(self, uri: str) -> None:
        """Open a lake.

        Raises:
            UsageError: There is no lake.
        """
        self._lake = Lake(uri)
        self.feature_options = self._lake.features_made_with()

    @property
    def store(self) -> Lake:
        """Where its files are."""
        return self._lake

    def dataset(self, table: str, shards: Sequence[int] | None = None) -> pads.Dataset:
        """Return a table as a pyarrow data set, into which filters and columns can be pushed down.

        Args:
            table: Its name.
            shards: The committed shards to read. None: all.

        Raises:
            UsageError: There is no table of that name.
        """
        if table not in TABLES:
            raise UsageError(f"no table {table!r}; there are {', '.join(TABLES)}")
        paths, schema = self._committed_parts(table, shards), TABLES[table]
        if table in OF_MODELS:
            schema = schema.append(pa.field("model", pa.string()))
        if not paths:
            return pads.dataset(schema.empty_table())
        if table in OF_MODELS:
            partitioning = pads.partitioning(pa.schema([("model", pa.string())]), flavor="hive")
            base = self._lake.path(table)
            return pads.dataset(
                paths, schema, "parquet", self._lake.fs, partitioning=partitioning, partition_base_dir=base
            )
        if table == "detections":
            return self._detections(paths)
        schema = schema if table in ADDED_LATER else None
        return pads.dataset(paths, filesystem=self._lake.fs, format="parquet", schema=schema)

    def _detections(self, paths: list[str]) -> pads.Dataset:
        """Return the boxes with as many keypoints as any part has; parts of earlier releases have none."""
        factory = pads.FileSystemDatasetFactory(self._lake.fs, paths, pads.ParquetFileFormat())
        found = factory.inspect()
        return factory.finish(found if "keypoints" in found.names else TABLES["detections"])

    def table(self, table: str, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """Return a table, whole or some columns and rows of it, in the order of its parts."""
        return self.dataset(table).to_table(columns=list(columns) if columns else None, filter=filter)

    def rows_of(
        self, table: str, video_id: str, columns: Sequence[str], filter: pc.Expression | None = None
    ) -> pa.Table:
        """Return the rows of one video, in the order of its part. Only its own shard is read, if that is known."""
        own = pc.field("video_id") == video_id
        shard = self._shards.get(video_id)
        found = self.dataset(table, None if shard is None else [shard])
        return found.to_table(columns=list(columns), filter=own if filter is None else own & filter)

    @functools.cached_property
    def _shards(self) -> dict[str, int]:
        """The shard of each committed video, as of the first use."""
        rows = self.table("videos", ["video_id", "shard"])
        return {row["video_id"]: row["shard"] for row in rows.to_pylist() if row["shard"] is not None}

    def videos(self, video_ids: Collection[str]) -> Iterator[tuple[str, VideoRows, NDArray[np.int64]]]:
        """Yield the features of some videos, with the track id of every box, in the order of the lake."""
        one_of_them = pc.field("video_id").isin(pa.array(list(video_ids), pa.string()))
        # Not from `_shards`: parts may have been merged since.
        located = self.table("videos", ["video_id", "shard"], one_of_them)
        wanted = set(located["video_id"].to_pylist())
        for shard in sorted(set(located["shard"].to_pylist())):
            for video_id, rows, track_ids, _ in committed_videos(self._lake, shard):
                if video_id in wanted:
                    yield video_id, rows, track_ids

    def model(self, name: str | None = None) -> str:
        """Return the name of a model whose segments the lake holds; without a name, that of the only model.

        Raises:
            UsageError: There is no model, or not this one, or there are several and none is named.
        """
        models = self._lake.models()
        if not models:
            raise UsageError(f"{self._lake.uri}: no model has labelled it; run `actionlake classify`")
        if name is None and len(models) > 1:
            raise UsageError(f"{self._lake.uri}: labelled by {', '.join(models)}; name one with --model")
        if name is not None and name not in models:
            raise UsageError(f"{self._lake.uri}: not labelled by {name!r}, but by {', '.join(models)}")
        return name or models[0]

    def video(self, part: str) -> dict[str, Any]:
        """Return the row of the one video whose path contains `part`, or whose path or id is `part`.

        Raises:
            UsageError: There is no such video, or there are several.
        """
        rows: list[dict[str, Any]] = self.table("videos").to_pylist()
        found = [row for row in rows if part in row["uri"]]
        exact = [row for row in rows if part in (row["uri"], row["video_id"])]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if len(exact) > 1 or len({row["uri"] for row in found}) == 1:
            ids = ", ".join(row["video_id"] for row in exact or found)
            raise UsageError(
                f"{part!r} is {len(exact or found)} videos, spans or versions of one file; name one by its id: {ids}"
            )
        if found:
            raise UsageError(f"{len(found)} videos have {part!r} in their path: {_some(found)}; name more of one")
        if not rows:
            raise UsageError(f"{self._lake.uri}: no video is finished yet; `actionlake status` tells how far it is")
        raise UsageError(f"no video of {self._lake.uri} has {part!r} in its path; it holds {_some(rows)}")

    def videos_where(
        self, where: str | None = None, columns: Sequence[str] = ("video_id", "uri", "duration_s")
    ) -> list[dict[str, Any]]:
        """Return some columns of the videos that meet a condition in SQL on the columns of `videos`.

        Raises:
            UsageError: `where` is not such a condition.
        """
        if where is None:
            found = self.table("videos", columns)
        else:
            try:
                check_condition(where)
                found = self.sql(f"SELECT {', '.join(columns)} FROM videos WHERE ({where}\n)")
            except UsageError as error:
                raise UsageError(f"--where {where!r}: no condition on the columns of videos ({error})") from error
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows

    def segments(self, where: str | None = None, model: str | None = None) -> pa.Table:
        """Return the segments of a model that meet a condition, sorted by `uri`, `start_s`, `track_id` (null first).

        Args:
            where: A condition in SQL on the columns of `segments`, such as `label = 'fall' AND score > 0.5`. It may
                query other tables in subqueries. None: all segments.
            model: Model of the segments. None: the only model.

        Returns:
            The columns of `segments`, and `model`.

        Raises:
            UsageError: There is no such model, or several and none is named, or `where` is not a valid condition.
        """
        chosen = self.model(model)
        if where is None:
            found = self.table("segments", filter=pc.field("model") == chosen)
        else:
            found = self._segments_where(where, chosen)
        keys = found.select(["uri", "start_s", "end_s", "label"])
        keys = keys.add_column(2, "track", pc.fill_null(found["track_id"], -1))  # before the first track
        return found.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]))

    def _segments_where(self, where: str, model: str) -> pa.Table:
        schema, literal = self.dataset("segments").schema, model.replace("'", "''")
        try:
            check_condition(where)
            found = self.sql(
                f"SELECT {', '.join(schema.names)} FROM (SELECT * FROM segments WHERE model = '{literal}') AS segments"
                f"\nWHERE (\n{where}\n)"
            )
        except UsageError as error:
            # The message tells what is wrong with the condition, but not which options other commands have.
            cause = str(error).removeprefix("query: ").partition(", or raise --")[0].partition("\n\nLINE ")[0]
            way_out = "give a condition on the columns of segments, such as \"label = 'fall' AND score > 0.5\""
            raise UsageError(f"--where {where!r}: {' '.join(cause.split())}; {way_out}") from error
        # If the name of a model is a number, DuckDB reads it as a number.
        place = found.column_names.index("model")
        return found.set_column(place, "model", pa.array([model] * found.num_rows, pa.string())).cast(schema)

    def pandas(self, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return a table as a pandas data frame."""
        return self.table(table, columns).to_pandas()

    def connect(self, memory_gb: float = QUERY_MEMORY_GB) -> duckdb.DuckDBPyConnection:
        """Return a DuckDB connection with a view for every table, and four more views.

        `tracks` has one row per track, `timeline` the segments with the camera and the time of day, `poses` one row per
        keypoint, and `surprises` tells how far people were from their forecasts.

        The connection can't reach other files or the network, and uses at most `memory_gb` GiB of memory.
        """
        connection = duckdb.connect(":memory:")
        prefix = ""
        if not isinstance(self._lake.fs, pafs.LocalFileSystem):
            connection.register_filesystem(_LakeFileSystem(self._lake.fs))
            prefix = f"{_LakeFileSystem.protocol}://"
        connection.execute("SET allowed_directories = [?]", [prefix + self._lake.root])
        for table in TABLES:
            paths = [prefix + path for path in self._committed_parts(table)]
            if paths:
                later = ADDED_LATER.get(table, {})
                view = connection.read_parquet(paths, hive_partitioning=table in OF_MODELS, union_by_name=bool(later))
                unknown = [f"NULL::{kind} AS {name}" for name, kind in later.items() if name not in view.columns]
                view.project(", ".join(["*", *unknown])).create_view(table)
            else:
                connection.register(table, self.dataset(table).to_table(columns=_READABLE.get(table)))
        for statement in VIEWS:
            connection.execute(statement)
        connection.execute("SET memory_limit = ?", [f"{int(memory_gb * 1024)}MiB"])
        # Without this, data that does not fit into memory would go to a file.
        connection.execute("SET temp_directory = ''")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

    def sql(self, query: str, timeout_s: float = QUERY_TIMEOUT_S, memory_gb: float = QUERY_MEMORY_GB) -> pa.Table:
        """Answer a query in SQL.

        Args:
            query: One SELECT.
            timeout_s: The query is interrupted after this many seconds.
            memory_gb: Most GiB that the query may use, and that its answer may hold.

        Raises:
            UsageError: The query is not valid, is anything but one SELECT, or takes too long or too much memory.
        """
        with self.connect(memory_gb) as connection:
            timer = threading.Timer(timeout_s, connection.interrupt)
            try:
                statements = connection.extract_statements(query)
                if len(statements) != 1 or statements[0].type not in _READING:
                    raise UsageError("query: one SELECT is wanted; a lake is only read")
                timer.start()
                return _gathered(connection.sql(query).to_arrow_reader(_ANSWER_ROWS), memory_gb)
            except duckdb.InterruptException as error:
                raise UsageError(
                    f"query: not answered within {timeout_s:g} s; ask for less, or raise --timeout"
                ) from error
            except duckdb.OutOfMemoryException as error:
                raise UsageError(
                    f"query: needs more than {memory_gb:g} GiB of memory; ask for less, or raise --memory-gb"
                ) from error
            except duckdb.Error as error:
                raise UsageError(f"query: {error}") from error
            finally:
                timer.cancel()

    def _committed_parts(self, table: str, shards: Sequence[int] | None = None) -> list[str]:
        shards = self._lake.committed() if shards is None else shards
        is_of_models = table in OF_MODELS
        folders = [model_folder(table, model) for model in self._lake.models(table)] if is_of_models else [table]
        paths = [self._lake.path(folder, part_name(shard)) for folder in folders for shard in shards]
        infos = self._lake.fs.get_file_info(paths)
        return [info.path for info in infos if info.is_file]


def check_condition(where: str) -> None:
    """Raise if a text is not an expression on its own: it could close the parentheses that it is put in."""
    with duckdb.connect(":memory:") as connection:
        try:
            connection.extract_statements(f"SELECT {where}")
        except duckdb.Error as error:
            raise UsageError(str(error)) from error


def _some(videos: Sequence[dict[str, Any]]) -> str:
    uris = sorted(row["uri"] for row in videos)
    return ", ".join(uris[:_NAMED]) + (", ..." if len(uris) > _NAMED else "")


def _gathered(reader: pa.RecordBatchReader, memory_gb: float) -> pa.Table:
    """Return all rows of an answer; raise if they need more than `memory_gb` GiB."""
    batches, n_bytes = [], 0
    for batch in reader:
        batches.append(batch)
        n_bytes += batch.nbytes
        if n_bytes > memory_gb * 2**30:
            raise UsageError(f"query: the answer is larger than {memory_gb:g} GiB; ask for less, or raise --memory-gb")
    return pa.Table.from_batches(batches, schema=reader.schema)


def open_lake(uri: str) -> LakeReader:
    """Open a lake for reading: `.table("segments")`, `.pandas(...)`, `.dataset(...)`, `.sql(...)`.

    Raises:
        UsageError: There is no lake.
    """
    return LakeReader(uri)
