"""Show the everyday sources as detectors see them that have not learnt from them.

    python -m tests.bench.unseen ../shared/data ../shared/weights people --out runs --px 480 --sources gmdcsa24 jhmdb \
        --teacher ../shared/weights/yolov8n_coco.pt
    python -m tests.bench.unseen_eyes ../shared/data daily/everyday.csv daily/eyes \
        gmdcsa24=two-more gmdcsa24=runs/without-gmdcsa24 jhmdb=runs/without-jhmdb

A detector remembers the pictures that it learnt from. What it finds there is better than what it finds anywhere else:
a model of activities that learns from it alone does not learn what the detector gets wrong, and measuring with it
flatters. `OUT` gets a lake with what each named detector finds in the source that it has not seen, links to the
sources, once for each detector, and a table. A source is measured as the first detector named for it sees it. What the
bundled detector finds in it is for training only. Altered clips (`altered_clips.py`) are seen by that first one alone.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.config import Config
from pipeline.engine.analyze import analyze
from pipeline.lake.store import Lake, part_name
from pipeline.training.videos import VideoFolder

_INPUTS = ("box", "pose")
Span = dict[str, str]
"""A row of the table."""


def views(span: Span, detectors: Mapping[str, Sequence[Path]]) -> Iterator[Span]:
    """Yield a span as the bundled detector sees it, and as each one that has not seen its source does."""
    folder = span["video"].partition("/")[0]
    source, _, alteration = folder.partition("-")
    unseen = detectors.get(source, ())
    if not unseen:
        yield span
        return
    not_tested = {split: "" if part == "test" else part for split, part in span.items() if split.startswith("split")}
    if alteration:
        yield span | {"video": f"by-{unseen[0].name}/{span['video']}"}
        return
    draws = {"draws": str(max(1, round(int(span["draws"]) / (1 + len(unseen)))))}
    yield span | draws | not_tested
    for number, detector in enumerate(unseen):
        yield span | draws | {"video": f"by-{detector.name}/{span['video']}"} | (not_tested if number else {})


def look(detector: Path, uris: Sequence[str], own: Lake, target: Lake) -> None:
    """Write what a detector finds in videos to a lake of its own, and add that to another lake."""
    config = Config(
        inputs=_INPUTS, detector=str(detector), detector_px=480, frame_px=480, embedder="detector", keep_features=True
    )
    analyze(uris, own.uri, None, config)
    add_shards(own, target)


def add_shards(source: Lake, target: Lake) -> None:
    """Copy the committed shards of a lake into another one, under new numbers."""
    taken = target.planned_or_committed()
    first = taken[-1] + 1 if taken else 0
    for number, shard in enumerate(source.committed(), first):
        # The part of `videos` is last: it commits the shard.
        for folder in ("_plan", *reversed(source.folders())):
            if source.has_part(folder, shard):
                Path(target.path(folder)).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source.path(folder, part_name(shard)), target.path(folder, part_name(number)))


def main() -> None:
    """Write the lake, the links and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the sources")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("detectors", nargs="+", metavar="SOURCE=DETECTOR")
    arguments = parser.parse_args()
    out = arguments.out
    detectors: dict[str, list[Path]] = defaultdict(list)
    for named in arguments.detectors:
        source, _, detector = named.partition("=")
        detectors[source].append(Path(detector))
    with open(arguments.annotations, encoding="utf-8", newline="") as file:
        spans: list[Span] = list(csv.DictReader(file))
    table = [view for span in spans for view in views(span, detectors)]
    target = Lake(str(out / "lake"))
    if target.exists():
        parser.error(f"{out} holds a lake already; name a new folder")
    target.claim(Config(inputs=_INPUTS).feature_options())
    folder, of_folder = VideoFolder(str(out)), defaultdict(set)
    for row in table:
        first, second, *_ = row["video"].split("/")
        of_folder[f"{first}/{second}" if first.startswith("by-") else first].add(folder.uri(row["video"]))
    for name, uris in of_folder.items():
        by, _, of_detector = name.rpartition("/")
        link = out / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to((arguments.data / of_detector).resolve())
        for detector in detectors[of_detector.partition("-")[0]]:
            if by == f"by-{detector.name}":
                look(detector, sorted(uris), Lake(str(out / f"lake-{of_detector}-{by}")), target)
    with open(out / "everyday.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(spans[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
