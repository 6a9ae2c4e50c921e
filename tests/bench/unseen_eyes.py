"""Show the everyday sources as detectors see them that have not learnt from them.

    python -m tests.bench.unseen_eyes daily/cut daily/cut/everyday.csv daily/eyes \
        gmdcsa24=home-left-out gmdcsa24=two-more gmdcsa24=runs/without-gmdcsa24 \
        jhmdb=films-left-out jhmdb=runs/without-jhmdb    # docs/accuracy.md says how these detectors are made

A detector remembers the pictures that it learnt from. What it finds there is better than what it finds anywhere else:
a model of activities that learns from it alone does not learn what the detector gets wrong, and measuring with it
flatters. `OUT` gets a lake with what the bundled detector finds, and what each named one finds in the source that it
has not seen, links to the sources, once for each detector, and a table, to which `things.py` adds. A source is measured
as the first detector named for it sees it. What the bundled detector finds there is for training only. `actionlake
verify` says that parts of the lake were made with other options, which is so.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import Config
from pipeline.engine.analyze import analyze
from pipeline.lake.store import Lake
from pipeline.training.videos import VideoFolder
from tests.bench.cut_clips import Span, link, not_tested
from tests.bench.things import CORNERS, rows_of_things


def views(span: Span, detectors: Mapping[str, Sequence[Path]]) -> Iterator[Span]:
    """Yield a span as the bundled detector sees it, and as each one that has not seen its source does."""
    unseen = detectors.get(span["video"].partition("/")[0], ())
    if not unseen:
        yield span
        return
    drawn = span | {"draws": str(max(1, round(int(span["draws"]) / (1 + len(unseen)))))}
    yield not_tested(drawn)
    for number, detector in enumerate(unseen):
        yield (not_tested(drawn) if number else drawn) | {"video": f"by-{detector.name}/{span['video']}"}


def look(config: Config, uris: Sequence[str], lake: Lake) -> None:
    """Add to a lake what is found in videos with these options, although the rest of it was made with others."""
    pass_for(config, lake)
    analyze(uris, lake.uri, None, config)


def pass_for(config: Config, lake: Lake) -> None:
    """Let a lake pass for one that was made with these options."""
    lake.delete("lake.json")
    lake.claim(config.feature_options())


def main() -> None:
    """Write the lake, the links and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the sources")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("detectors", nargs="+", metavar="SOURCE=DETECTOR")
    arguments = parser.parse_args()
    out, bundled = arguments.out, Config(inputs=("box", "pose"), keep_features=True)
    detectors: dict[str, list[Path]] = defaultdict(list)
    for named in arguments.detectors:
        source, _, detector = named.partition("=")
        detectors[source].append(Path(detector))
    with open(arguments.annotations, encoding="utf-8", newline="") as file:
        spans: list[Span] = list(csv.DictReader(file))
    table = [view for span in spans for view in views(span, detectors)]
    lake = Lake(str(out / "lake"))
    folder = VideoFolder(str(out))
    for source in {span["video"].partition("/")[0] for span in spans}:
        link(arguments.data / source, out / source)
        for detector in detectors[source]:
            seen = f"by-{detector.name}/{source}"
            link(arguments.data / source, out / seen)
            uris = sorted({folder.uri(row["video"]) for row in table if row["video"].startswith(f"{seen}/")})
            unseen = replace(bundled, detector=str(detector), detector_px=480, frame_px=480, embedder="detector")
            look(unseen, uris, lake)
    look(bundled, sorted({folder.uri(row["video"]) for row in table if not row["video"].startswith("by-")}), lake)
    table += rows_of_things(table, folder, lake)
    with open(out / "everyday.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*spans[0], *CORNERS], restval="")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
