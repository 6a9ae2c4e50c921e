"""All steps, one after the other, in one process: the whole path on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.activity.bundle import Bundle
from pipeline.archive.refs import VideoRef
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.lake.plans import read_plan
from pipeline.lake.store import Lake
from pipeline.lake.work import Receipt
from pipeline.steps.commit import ShardCommitter, ShardSummary
from pipeline.steps.decode import decode_pieces, tasks_of
from pipeline.steps.extract import Extractor, describe_networks
from pipeline.steps.plan import Probed, plan_archive, probe_patiently


def analyze_in_order(
    sources: Sequence[str], lake_uri: str, config: Config, bundles: Sequence[Bundle]
) -> list[ShardSummary]:
    """Run a job in this process, and return the summaries of its shards.

    Args:
        sources: Files, folders, globs or manifests.
        lake_uri: Where the rows go.
        config: The options.
        bundles: The models, at most one for each scope.
    """
    lake = Lake(lake_uri)
    lake.claim(config.feature_options())

    def probe_all(refs: Iterator[VideoRef], _: int) -> Iterator[Probed]:
        return ((ref, probe_patiently(ref, config)) for ref in refs)

    shards = plan_archive(lake, list_videos(list(sources)), config, probe_all)
    networks, extractor = describe_networks(config), Extractor(config)
    committer = ShardCommitter(config, bundles)
    summaries = []
    for shard in shards:
        for _ in extract_shard(lake, shard, config, extractor):
            pass
        summaries.append(committer.commit(lake, shard, networks))
    return summaries


def extract_shard(lake: Lake, shard: int, config: Config, extractor: Extractor) -> Iterator[Receipt]:
    """Decode and extract the chunks of a planned shard, and yield the receipts of their pieces."""
    for video in read_plan(lake, shard):
        for task in tasks_of(shard, video):
            for piece in decode_pieces(task, config):
                yield from extractor.extract(lake, [piece])
