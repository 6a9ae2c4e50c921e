"""Measure what f16 and int8 cost a packed model on people on whom it was not trained.

    python -m tests.bench.packed_unseen ../shared/data daily/everyday.csv everyday12-pose-causal-splits

`actionlake train --keep-splits --no-bidirectional` makes the models (docs/accuracy.md). Each was trained without one
person of GMDCSA24. int8 is calibrated on the clips of the others, and measured on the clips of that person.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from pipeline.edge.clips import find_clips
from pipeline.edge.compare import Clip, compare
from pipeline.edge.pack import PRECISIONS, pack
from pipeline.training.formats import read_annotations
from pipeline.training.videos import VideoFolder

PEOPLE = tuple(f"split_subject{number}" for number in range(1, 5))


def clips_of(videos: Path, labels: Path) -> dict[str, list[Clip]]:
    """Return the labelled clips of each person."""
    folder = VideoFolder(str(videos))
    person = {
        folder.uri(each.video): name
        for each in folder.locate(read_annotations(labels, None))
        for name in PEOPLE
        if each.splits.get(name) == "test"
    }
    of_people: dict[str, list[Clip]] = {name: [] for name in PEOPLE}
    for clip in find_clips(str(videos), labels):
        if clip.path in person:
            of_people[person[clip.path]].append(clip)
    return of_people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("splits", type=Path)
    options = parser.parse_args()
    of_people = clips_of(options.videos, options.labels)
    kinds = [("openvino", precision) for precision in PRECISIONS]
    seconds, right, agreement = 0.0, dict.fromkeys(PRECISIONS, 0.0), dict.fromkeys(PRECISIONS, 0.0)
    for name in PEOPLE:
        others = [Clip(clip.path) for other in PEOPLE if other != name for clip in of_people[other]]
        with tempfile.TemporaryDirectory() as folder:
            pack(options.splits / name, folder, others, PRECISIONS)
            told = json.loads((Path(folder) / "pack.json").read_text(encoding="utf-8"))
            outcomes = compare(Path(folder), told, of_people[name], kinds, lambda _: None)
        labelled_s = sum(end_s - start_s for clip in of_people[name] for _, start_s, end_s in clip.spans)
        seconds += labelled_s
        for each in outcomes:
            assert each.right is not None
            right[each.precision] += each.right * labelled_s
            agreement[each.precision] += each.agreement * labelled_s
            print(f"{name:16s} {each.precision:5s} {labelled_s:6.1f} s", *each.cells(), flush=True)
    for precision in PRECISIONS:
        print(f"all              {precision:5s} {agreement[precision] / seconds:.3f} {right[precision] / seconds:.3f}")


if __name__ == "__main__":
    main()
