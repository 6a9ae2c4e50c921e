"""Write the annotations on which the bundled person model is trained: JHMDB, GMDCSA24 and a street, in one table.

    python tests/bench/default_annotations.py DATA OUT
    actionlake train OUT/jhmdb.csv --videos DATA --map OUT/map.csv --lake OUT/lake --out daily22-person

The splits of `jhmdb.csv` are JHMDB's own. Those of `subjects.csv` each leave out one person of GMDCSA24. All
remaining clips are in the training part. The first 40 s of the street video count as walking, because nearly everybody
walks there. Its second half is kept for measurements. Clips from one source video form one group, and so do clips of
one person.

`folds.csv` is for the choice of inputs and options. It has three folds inside the training part of JHMDB's first split.
A group is always in one fold. No test clip of that split is in it.

`everyday.csv` is for training and measuring the bundled model of everyday activities, as docs/accuracy.md says.
Its spans in GMDCSA24 are our own, annotated by eye, in `everyday_gmdcsa24.csv`: the data set's own spans have no rest
after a fall. Eight activities of JHMDB are everyday ones. What the people of the others do meanwhile, who stand to pour
or sit to clap, is annotated by eye as well, in `everyday_jhmdb.csv`. The splits leave out each person of GMDCSA24, all
of JHMDB, each half of JHMDB's source videos, and the street.
"""

from __future__ import annotations

import argparse
import csv
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

# What GMDCSA24 calls its activities, and what they are here. Its people stand and sit still: nothing in particular.
MAP = {
    "walking": "walk",
    "falling": "fall",
    **dict.fromkeys(("standing", "sitting", "reading", "eating", "drinking", "sleeping", "exercising"), "background"),
}
EVERYDAY = {
    "sit": "sit_down", "stand": "get_up", "pick": "bend", "climb_stairs": "climb",
    **{label: label for label in ("jump", "run", "walk", "wave")},
}  # fmt: skip
"""What JHMDB calls its everyday activities, and what they are: its people sit down, and get up."""
DRAWS = {"jhmdb": 18, "gmdcsa24": 120, "street": 15}
"""How often an epoch draws a video, so that no source rules; skeletons are drawn once."""
DRAWS_OF_OTHERS = 9
"""The same for other activities of JHMDB, which has many of them."""
DRAWS_OF_GAITS = {"run": 27, "walk": 18}
"""The same for those who walk or run in JHMDB, whatever else they do; it has few who run."""
SUBJECTS = ("subject1", "subject2", "subject3", "subject4")
JHMDB = [f"split_jhmdb{i}" for i in (1, 2, 3)]
BY_SUBJECT = [f"split_{subject}" for subject in SUBJECTS]
HALVES = [f"split_half{i}" for i in (1, 2)]
BY_SOURCE = [*BY_SUBJECT, "split_jhmdb", *HALVES, "split_street"]
FOLDS = [f"split_fold{i}" for i in (1, 2, 3)]


def source_of(clip: str, label: str) -> str:
    """Return what JHMDB's file names of clips from one source video begin with."""
    return re.sub(rf"_{label}_.*", "", Path(clip).stem)


def rows(data: Path) -> list[dict[str, object]]:
    """Return the annotated spans of all sources, with both kinds of splits; those of no use to one are empty in it."""
    found: list[dict[str, object]] = []
    with open(data / "jhmdb" / "splits.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            parts = dict.fromkeys([*JHMDB, *BY_SUBJECT, *FOLDS], "train") | {
                f"split_jhmdb{i}": row[f"split{i}"] for i in (1, 2, 3)
            }
            if row["split1"] == "train":
                parts[FOLDS[zlib.crc32(source_of(row["video"], row["label"]).encode()) % 3]] = "test"
            else:
                parts |= dict.fromkeys(FOLDS, "")
            group = source_of(row["video"], row["label"])
            found.append({"video": f"jhmdb/{row['video']}", "label": row["label"], "group": group, **parts})
    trained = dict.fromkeys([*JHMDB, *BY_SUBJECT, *FOLDS], "train")
    with open(data / "gmdcsa24" / "annotations.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            span = {name: row[name] for name in ("start_s", "end_s", "label")} | {"group": row["subject"]}
            left_out = {f"split_{row['subject']}": "test"}
            found.append({"video": f"gmdcsa24/{row['video']}", **span, **trained, **left_out})
    found.append({"video": "street/vtest.avi", "start_s": 0, "end_s": 40, "label": "walk", **trained})
    return found


def everyday(data: Path) -> list[dict[str, object]]:
    """Return the spans of everyday activities."""
    found: list[dict[str, object]] = []
    of_others = {row["video"]: row for row in by_eye("jhmdb")}
    with open(data / "jhmdb" / "splits.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            group = source_of(row["video"], row["label"])
            half = {HALVES[zlib.crc32(group.encode()) % 2]: "test"}
            other = of_others.get(row["video"])
            span = other or {"label": EVERYDAY[row["label"]]}
            draws = DRAWS_OF_GAITS.get(span["label"], DRAWS_OF_OTHERS if other else DRAWS["jhmdb"])
            found.append(_of_everyday("jhmdb", row["video"], group, {**span, "draws": draws}) | half)
    for row in by_eye("gmdcsa24"):
        found.append(_of_everyday("gmdcsa24", row["video"], f"subject{Path(row['video']).name[1]}", row))
    found.append(_of_everyday("street", "vtest.avi", "street", {"label": "walk"}))
    return found


def by_eye(name: str) -> list[dict[str, str]]:
    """Return our own annotations of a source, or of things."""
    with open(Path(__file__).parent / f"everyday_{name}.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of_everyday(source: str, video: str, group: str, span: Mapping[str, object]) -> dict[str, object]:
    """Return a span: in the test part of the splits that leave out its source or person."""
    held_out = {f"split_{source}", f"split_{group}"}
    parts = {split: "test" if split in held_out else "train" for split in BY_SOURCE}
    return {"draws": DRAWS[source], **span, "video": f"{source}/{video}", "group": group, **parts}


def write(path: Path, columns: list[str], spans: list[dict[str, object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        names = ["video", "start_s", "end_s", "label", "group", *columns]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(spans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    spans = rows(arguments.data)
    write(arguments.out / "jhmdb.csv", JHMDB, spans)
    write(arguments.out / "subjects.csv", BY_SUBJECT, spans)
    write(arguments.out / "folds.csv", FOLDS, [span for span in spans if span[FOLDS[0]]])
    write(arguments.out / "everyday.csv", ["or", "draws", *BY_SOURCE], everyday(arguments.data))
    with open(arguments.out / "map.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("from", "to"), *MAP.items()])


if __name__ == "__main__":
    main()
