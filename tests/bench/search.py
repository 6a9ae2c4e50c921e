"""Measure `search`: the share of neighbours with the same label in JHMDB's clips, and the time for 1,000,000 stretches.

    actionlake analyze DATA/jhmdb/clips --lake LAKE --model none --config search.toml
    python -m tests.bench.search LAKE

`search.toml` names all inputs that a search can compare, of people and of whole frames:

    [features]
    scope = "both"
    embedder = "detector"
    sample_fps = 7.5
    inputs = ["frame", "crop", "crop_flow", "box", "pose"]

Each clip with people is searched for once, by its largest person. All clips from its source video are left out. The
script prints the share of the ten nearest stretches that have its label (chance: the label's share among all): for the
recipe, through the index; for parts of the recipe alone; and, as a baseline, for the cosine between means of the stored
vectors. It prints all of this for two halves of the sources, too: a choice made on one can be checked on the other. A
lake of scope `frame` is measured by its frames. Then it measures the time of a search on simulated vectors in files.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.lake.examples import Example, Shown, show
from pipeline.lake.likeness import DIM, WEIGHTS, Basis
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.search import Video, nearest
from pipeline.lake.search_index import ShardIndex, _Keeper, open_index
from pipeline.lake.store import Lake
from pipeline.lake.stretches import PERSON, Parts, unit
from tests.bench.default_annotations import source_of

N_NEAREST = 10
SETS: dict[str, tuple[str, ...]] = {
    "embedding alone": ("embedding",),
    "flow alone": ("flow",),
    "poses and box": ("places", "trend", "pace", "box"),
    "mean pose alone": ("places",),
    "embedding, poses and box": ("embedding", "places", "trend", "pace", "box"),
    "all, as made up here": tuple(WEIGHTS),
}


def clips_of(lake: LakeReader) -> dict[str, dict[str, str]]:
    """Return the label and the source of every clip of JHMDB in a lake, by video id."""
    found = {}
    for row in lake.table("videos", ["video_id", "uri"]).to_pylist():
        folder, label, name = ("/" + row["uri"]).rsplit("/", 2)
        if folder.endswith("jhmdb/clips"):
            found[row["video_id"]] = {"label": label, "source": source_of(name, label)}
    return found


def told(name: str, shares: Mapping[str, float], clips: Mapping[str, Mapping[str, str]]) -> None:
    """Print the mean share, of all and of both halves of the sources."""
    halves = {video_id: zlib.crc32(clips[video_id]["source"].encode()) % 2 for video_id in shares}
    means = [np.mean([share for video_id, share in shares.items() if halves[video_id] == half]) for half in (0, 1)]
    print(f"{name:42s} {np.mean(list(shares.values())):.3f}   ({means[0]:.3f}, {means[1]:.3f})", flush=True)


def by_index(lake: LakeReader, shown: Sequence[Shown], clips: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Return each clip's share by the product itself."""
    opened = open_index(lake.store, lake.feature_options, shown[0].kind)
    assert opened is not None
    shares = {}
    for each in shown:
        own = clips[each.example.video_id]
        others = {v: Video(v, np.inf) for v, other in clips.items() if other["source"] != own["source"]}
        hits = nearest(*opened, [each], others, N_NEAREST)
        shares[each.example.video_id] = sum(clips[hit.video_id]["label"] == own["label"] for hit in hits) / N_NEAREST
    return shares


def by_products(
    likeness: NDArray[np.float32], shown: Sequence[Shown], clips: Mapping[str, Mapping[str, str]]
) -> dict[str, float]:
    """Return each clip's share among one stretch of each clip, given all likenesses `[n, n]`."""
    owners = [clips[each.example.video_id] for each in shown]
    sources = np.unique([owner["source"] for owner in owners], return_inverse=True)[1]
    labels = np.unique([owner["label"] for owner in owners], return_inverse=True)[1]
    others = np.where(sources[:, None] == sources[None], -np.inf, likeness)
    near = np.argsort(-others, axis=1, kind="stable")[:, :N_NEAREST]
    shares = (labels[near] == labels[:, None]).mean(axis=1)
    return {each.example.video_id: float(share) for each, share in zip(shown, shares, strict=True)}


def of_parts(shown: Sequence[Shown], names: Sequence[str]) -> NDArray[np.float32] | None:
    """Return the likenesses by some parts alone, fitted to all clips; None where the lake lacks one."""
    if not set(names) <= shown[0].parts[0].keys():
        return None

    def joined(side: int) -> Parts:
        return {name: np.concatenate([each.parts[side][name][:1] for each in shown]) for name in names}

    basis = Basis.fit(joined(0))
    gallery = basis.vectors(joined(0))
    return np.max([basis.vectors(joined(side)) @ gallery.T for side in range(len(shown[0].parts))], axis=0)


def as_stored(lake: LakeReader, shown: Sequence[Shown], name: str) -> NDArray[np.float32]:
    """Return the cosines between the means of an input's vectors, as they are stored, over whole clips."""
    of_video = {each.example.video_id: each for each in shown}
    means = {}
    for video_id, rows, track_ids in lake.videos(of_video):
        if name == "frame":
            sequences = list(rows.frame_sequences())
        else:
            track_id = of_video[video_id].track_id
            sequences = [track for track in rows.track_sequences(track_ids) if track.track_id == track_id]
        blocks = [block for sequence in sequences for block in rows.inputs(sequence, [name])]
        means[video_id] = np.concatenate(blocks).astype(np.float32).mean(axis=0)
    vectors = unit(np.stack([means[each.example.video_id] for each in shown]))
    return vectors @ vectors.T


def measure_labels(uri: str) -> None:
    """Print the shares of neighbours with the same label."""
    lake = open_lake(uri)
    clips = clips_of(lake)
    started = time.perf_counter()
    shown = show(lake, [Example(video_id, 0.0, 60.0) for video_id in clips])
    # A clip in which nobody is followed is asked for by its frames, which people are not compared with.
    shown = [each for each in shown if each.kind == shown[0].kind]
    chances = []
    for each in shown:
        own = clips[each.example.video_id]
        others = [other["label"] for other in clips.values() if other["source"] != own["source"]]
        chances.append(others.count(own["label"]) / len(others))
    print(f"{len(shown)} of {len(clips)} clips, kind {shown[0].kind}; chance {np.mean(chances):.3f}")
    print(f"{'share of the 10 nearest':42s} all     (halves of the sources)")
    told("recipe, through the index", by_index(lake, shown, clips), clips)
    for name, parts in SETS.items():
        likeness = of_parts(shown, parts)
        if likeness is not None:
            told(name, by_products(likeness, shown, clips), clips)
    for name in ("frame", "crop"):
        if name in lake.feature_options["inputs"] and (name == "frame" or shown[0].kind == PERSON):
            told(
                f"mean {name} embedding as stored, cosine",
                by_products(as_stored(lake, shown, name), shown, clips),
                clips,
            )
    print(f"{time.perf_counter() - started:.0f} s")


def measure_seconds(n: int, n_shards: int = 50, n_trials: int = 5) -> None:
    """Print how long a search through so many stretches takes, with one example and with fifty."""
    rng = np.random.default_rng(0)
    of_shard = n // n_shards
    basis = Basis.fit({"embedding": rng.standard_normal((256, 1024), dtype=np.float32)})
    with tempfile.TemporaryDirectory() as folder:
        keeper = _Keeper(Lake(folder), PERSON)
        for shard in range(n_shards):
            video = (np.arange(of_shard) // 100).astype(np.int32)
            ids = tuple(f"{shard:08x}{number:08x}" for number in range(int(video[-1]) + 1))
            start_s = (np.arange(of_shard) % 100).astype(np.float64)
            vectors = unit(rng.standard_normal((of_shard, basis.dim), dtype=np.float32)).astype(np.float16)
            index = ShardIndex(ids, video, np.ones(of_shard, np.int64), start_s, start_s + 2, vectors)
            keeper.write(shard, "made up", index)
        for n_examples in (1, 50):
            seconds = []
            for _ in range(n_trials):
                some = rng.standard_normal((2, n_examples, 1, 1024), dtype=np.float32)
                shown = [
                    Shown(Example("none", 0, 2), PERSON, 1, 0, 2, tuple({"embedding": side} for side in sides))
                    for sides in zip(*some, strict=True)
                ]
                started = time.perf_counter()
                shards = [keeper.read(shard, "made up") for shard in range(n_shards)]
                videos = {video_id: Video(video_id, np.inf) for shard in shards for video_id in shard.video_ids}
                assert len(nearest(basis, shards, shown, videos, N_NEAREST)) == N_NEAREST
                seconds.append(time.perf_counter() - started)
            print(
                f"{of_shard * n_shards} stretches of {basis.dim} numbers in {n_shards} files, {n_examples} examples, "
                f"mirrored, too: {np.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lake", nargs="?", help="a lake that holds JHMDB's clips; none: only the time is measured")
    parser.add_argument("--stretches", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if arguments.lake:
        measure_labels(arguments.lake)
    print(f"at most {DIM} numbers a stretch")
    measure_seconds(arguments.stretches)


if __name__ == "__main__":
    main()
