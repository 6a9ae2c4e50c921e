"""Find the stretches of a lake that are most like given ones, or like a text."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import OF_DETECTOR
from pipeline.errors import UsageError
from pipeline.lake.examples import Example, Shown, show
from pipeline.lake.likeness import Basis
from pipeline.lake.query import LakeReader
from pipeline.lake.search_index import Progress, ShardIndex, open_index, open_looks
from pipeline.lake.stretches import FRAME, PERSON, kinds_of
from pipeline.motion.tracking import NO_TRACK
from pipeline.vision.backbones import OPEN_CLIP, source_of
from pipeline.vision.texts import embed_texts

# About this many multiplications per block, at 64 numbers per vector.
_AT_ONCE = 1 << 22
# A stretch overlaps at most this many others of its track: those before and after it, and the last of the track.
_OVERLAPPING = 3
# Times are multiples of a step, except for rounding errors.
_EPSILON_S = 1e-6


@dataclass(frozen=True)
class Video:
    """A video to look through."""

    uri: str
    duration_s: float
    """Infinite if it is not known."""


@dataclass(frozen=True)
class Hit:
    """A stretch that is like an example, or like a text."""

    likeness: float
    """Cosine to the nearest example, or text: 1 is the same, 0 has nothing in common."""
    video_id: str
    uri: str
    start_s: float
    end_s: float
    track_id: int | None
    """The person; None for whole frames."""
    like: str
    """Label of the nearest example, or the nearest text."""
    labels: tuple[str, ...]
    """Labels of the segments that overlap it, the longest overlap first."""


def search(
    lake: LakeReader,
    examples: Sequence[Example],
    limit: int = 10,
    where: str | None = None,
    other_videos: bool = False,
    model: str | None = None,
    progress: Progress | None = None,
) -> list[Hit]:
    """Return the stretches of a lake that are most like any of the examples, the most like first.

    A stretch is about two seconds of one person, or of whole frames. If stretches of one person overlap, only the most
    like one is returned. A stretch is left out if it overlaps an example, or is more like a negative example than like
    any positive one. A mirrored pose has the same likeness. The search is exact. The first search stores an index.

    Args:
        lake: An open lake.
        examples: Parts of videos of this lake that show what to look for, or what not to.
        limit: Most stretches to return.
        where: A condition in SQL on the columns of `videos`; only matching videos are searched.
        other_videos: Leave out the videos of the examples.
        model: The model whose segments give the labels. None: all models.
        progress: Called for each shard of the index with the number of ready shards and of all shards.

    Raises:
        UsageError: The lake is empty or without features, nobody was followed where the examples are, or the condition
            is not valid.
    """
    _check_limit(limit)
    if not any(not example.is_negative for example in examples):
        raise UsageError("all examples are negative; at least one has to show what is looked for")
    videos = _videos(lake, where)
    shown = show(lake, examples)
    if other_videos:
        for each in shown:
            videos.pop(each.example.video_id, None)
    hits = []
    for kind in sorted({each.kind for each in shown if not each.example.is_negative}):
        opened = open_index(lake.store, lake.feature_options, kind, progress)
        if opened is not None:
            basis, shards = opened
            hits += nearest(basis, shards, [each for each in shown if each.kind == kind], videos, limit)
    return _best(lake, hits, limit, model)


def search_texts(
    lake: LakeReader,
    texts: Sequence[str],
    limit: int = 10,
    where: str | None = None,
    model: str | None = None,
    progress: Progress | None = None,
) -> list[Hit]:
    """Return the stretches of a lake that look most like what any of the texts says, the most like first.

    The likeness is the cosine of a text's vector and the mean vector of a stretch. Each vector has length 1, and is of
    a person's crop or of a whole frame, by the lake's embedder. Every stretch is compared, as in `search`.

    Args:
        lake: An open lake, whose embedder reads texts, too.
        texts: What to look for, in words.
        limit: Most stretches to return.
        where: A condition in SQL on the columns of `videos`; only matching videos are searched.
        model: The model whose segments give the labels. None: all models.
        progress: As in `search`.

    Raises:
        UsageError: The lake is empty; its features are not kept; its embedder reads no texts, is not available or has
            changed; a text is empty; or the condition is not valid.
    """
    _check_limit(limit)
    videos = _videos(lake, where)
    kinds = _kinds_with_looks(lake)
    embedder = lake.feature_options["embedder"]
    vectors = embed_texts(embedder, texts)
    dim = lake.dataset("features").schema.field("embedding").type.list_size
    indexes = [open_looks(lake.store, lake.feature_options, kind, dim, progress) for kind in kinds]
    if dim != vectors.shape[1]:
        raise UsageError(
            f"{lake.store.uri}: embedder = {embedder!r} gives vectors of {vectors.shape[1]} numbers, but its features "
            f"have {dim}: they were made with another model, which is also needed to read texts"
        )
    hits = []
    for shards in indexes:
        hits += _most_like(shards, vectors, vectors[:0], texts, (), videos, limit)
    return _best(lake, hits, limit, model)


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise UsageError(f"limit {limit}: at least 1 is wanted")


def _kinds_with_looks(lake: LakeReader) -> list[str]:
    """Return the kinds of stretches that a text can be compared with.

    Raises:
        UsageError: There are none: the embedder reads no texts, or looked at neither people nor frames.
    """
    options = lake.feature_options
    name, uri = options["embedder"], lake.store.uri
    try:
        reads_texts = name != OF_DETECTOR and source_of(name).library == OPEN_CLIP
    except UsageError as error:
        raise UsageError(f"{uri}: the embedder of its features is needed to read texts; {error}") from error
    if not reads_texts:
        raise UsageError(
            f"{uri}: its features were made with embedder = {name!r}, which reads no texts; make another lake with "
            "analyze --embedder open_clip:MODEL/WEIGHTS, and search that"
        )
    needs = {PERSON: "crop", FRAME: "frame"}
    kinds = [kind for kind in kinds_of(options) if needs[kind] in options["inputs"]]
    if not kinds:
        raise UsageError(
            f"{uri}: its features hold {', '.join(options['inputs'])}, none of which can be compared with a text; "
            'make another lake with inputs = ["crop"] for people, or ["frame"] in scope frame'
        )
    return kinds


def nearest(
    basis: Basis, shards: Sequence[ShardIndex], shown: Sequence[Shown], videos: Mapping[str, Video], limit: int
) -> list[Hit]:
    """Return the best hits of one kind, without labels of segments.

    Args:
        basis: The basis of the index.
        shards: The index.
        shown: The examples.
        videos: The videos to search, by id.
        limit: Most hits to return.
    """
    queries, of_query, signs = [], [], []
    for number, each in enumerate(shown):
        for parts in each.parts:
            vectors = basis.vectors(parts)
            queries.append(vectors)
            of_query += [number] * len(vectors)
            signs += [each.example.is_negative] * len(vectors)
    matrix, is_negative = np.concatenate(queries), np.array(signs)
    labels = [shown[number].example.label for number in np.array(of_query)[~is_negative]]
    return _most_like(shards, matrix[~is_negative], matrix[is_negative], labels, shown, videos, limit)


def _most_like(
    shards: Sequence[ShardIndex],
    positive: NDArray[np.float32],
    negative: NDArray[np.float32],
    labels: Sequence[str],
    shown: Sequence[Shown],
    videos: Mapping[str, Video],
    limit: int,
) -> list[Hit]:
    """Return the best hits, without labels of segments; `labels` are those of the positive queries."""
    likeness, best = [], []
    for shard in shards:
        near, which = _likenesses(shard.vectors, positive, negative)
        near[~_wanted(shard, shown, videos)] = -np.inf
        likeness.append(near)
        best.append(which)
    hits = []
    bounds = np.cumsum([0, *(len(near) for near in likeness)])
    for row, value in _apart(shards, np.concatenate(likeness), bounds, limit):
        number = int(np.searchsorted(bounds, row, side="right")) - 1
        shard, place = shards[number], row - int(bounds[number])
        video_id, track_id = shard.video_ids[shard.video[place]], int(shard.track_id[place])
        video = videos[video_id]
        hits.append(
            Hit(
                likeness=value,
                video_id=video_id,
                uri=video.uri,
                start_s=float(shard.start_s[place]),
                # The last step may reach past the end of the last frame.
                end_s=min(float(shard.end_s[place]), video.duration_s),
                track_id=None if track_id == NO_TRACK else track_id,
                like=labels[best[number][place]],
                labels=(),
            )
        )
    return hits


def _likenesses(
    vectors: NDArray[np.float16], positive: NDArray[np.float32], negative: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the likeness of each vector `[n, d]` to the nearest positive query, and which that is.

    A vector that is nearer to a negative query gets minus infinity.
    """
    n = len(vectors)
    near, which = np.empty(n, np.float32), np.empty(n, np.int64)
    block = max(64, _AT_ONCE // (len(positive) + len(negative)) // 64)
    for start in range(0, n, block):
        # NumPy multiplies half floats one by one, but float32 with a fast library.
        some = vectors[start : start + block].astype(np.float32)
        products = some @ positive.T
        chosen = products.argmax(axis=1)
        found = products[np.arange(len(some)), chosen]
        if len(negative):
            found[(some @ negative.T).max(axis=1) > found] = -np.inf
        near[start : start + block], which[start : start + block] = found, chosen
    return near, which


def _wanted(shard: ShardIndex, shown: Sequence[Shown], videos: Mapping[str, Video]) -> NDArray[np.bool_]:
    """Return which stretches are of the wanted videos and do not overlap an example."""
    wanted = np.array([video_id in videos for video_id in shard.video_ids], np.bool_)[shard.video]
    numbers = {video_id: number for number, video_id in enumerate(shard.video_ids)}
    for each in shown:
        number = numbers.get(each.example.video_id)
        if number is not None:
            own = (shard.video == number) & (shard.track_id == each.track_id)
            wanted &= ~(own & (shard.start_s < each.end_s - _EPSILON_S) & (shard.end_s > each.start_s + _EPSILON_S))
    return wanted


def _apart(
    shards: Sequence[ShardIndex], likeness: NDArray[np.float32], bounds: NDArray[np.int64], limit: int
) -> Iterator[tuple[int, float]]:
    """Yield the best rows and their likeness; of the stretches of one track that overlap, only the best."""
    most = min((1 + _OVERLAPPING) * limit, int(np.isfinite(likeness).sum()))
    if not most:
        return
    # The place in the lake breaks ties, so the same search gives the same hits.
    bar = np.partition(likeness, len(likeness) - most)[len(likeness) - most]
    candidates = np.flatnonzero(likeness >= bar)
    taken: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    n_found = 0
    for row in candidates[np.argsort(-likeness[candidates], kind="stable")].tolist():
        number = int(np.searchsorted(bounds, row, side="right")) - 1
        shard, place = shards[number], row - int(bounds[number])
        start_s, end_s = float(shard.start_s[place]), float(shard.end_s[place])
        of_track = taken[shard.video_ids[shard.video[place]], int(shard.track_id[place])]
        if all(start_s >= end - _EPSILON_S or end_s <= start + _EPSILON_S for start, end in of_track):
            of_track.append((start_s, end_s))
            yield row, float(likeness[row])
            n_found += 1
            if n_found == limit:
                return


def _best(lake: LakeReader, hits: list[Hit], limit: int, model: str | None) -> list[Hit]:
    """Return the best hits of all kinds, with labels."""
    hits.sort(key=lambda hit: (-hit.likeness, hit.uri, hit.start_s, hit.track_id or 0))
    return _with_labels(lake, hits[:limit], model)


def _videos(lake: LakeReader, where: str | None) -> dict[str, Video]:
    """Return the videos to search, by id."""
    if not lake.table("videos", ["video_id"]).num_rows:
        raise UsageError(f"{lake.store.uri}: no video is finished yet; `actionlake status` tells how far it is")
    return {row["video_id"]: Video(row["uri"], row["duration_s"] or math.inf) for row in lake.videos_where(where)}


def _with_labels(lake: LakeReader, hits: Sequence[Hit], model: str | None) -> list[Hit]:
    """Add to each hit the labels of the segments that overlap it, of the same person or of whole frames."""
    columns = ["video_id", "track_id", "label", "start_s", "end_s"]
    of_videos = pc.field("video_id").isin(sorted({hit.video_id for hit in hits}))
    by_model = of_videos if model is None else of_videos & (pc.field("model") == lake.model(model))
    segments = defaultdict(list)
    for row in lake.table("segments", columns, by_model).to_pylist() if hits else ():
        segments[row["video_id"]].append(row)
    labelled = []
    for hit in hits:
        seconds: Counter[str] = Counter()
        for row in segments[hit.video_id]:
            overlap_s = min(row["end_s"], hit.end_s) - max(row["start_s"], hit.start_s)
            if overlap_s > _EPSILON_S and row["track_id"] in (None, hit.track_id):
                seconds[row["label"]] += overlap_s
        labelled.append(replace(hit, labels=tuple(label for label, _ in seconds.most_common())))
    return labelled
