"""Write the annotations that the bundled person model is trained on: JHMDB and GMDCSA24 in one table.

    python tests/bench/default_annotations.py DATA OUT
    actionlake train OUT/daily.csv --videos DATA --map OUT/map.csv --out daily22-person

Splits: `split_jhmdb1..3` are JHMDB's own, with all of GMDCSA24 among what is trained on; `split_subject1..4` leave one
person of GMDCSA24 out, with all of JHMDB among what is trained on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

# What GMDCSA24 calls its activities, and what they are here. Its people stand and sit still: nothing in particular.
MAP = {
    "walking": "walk",
    "falling": "fall",
    **dict.fromkeys(("standing", "sitting", "reading", "eating", "drinking", "sleeping", "exercising"), "background"),
}
JHMDB_SPLITS = ("split1", "split2", "split3")
SUBJECTS = ("subject1", "subject2", "subject3", "subject4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = [f"split_jhmdb{i}" for i in (1, 2, 3)] + [f"split_{subject}" for subject in SUBJECTS]
    with open(arguments.out / "daily.csv", "w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["video", "start_s", "end_s", "label", *columns])
        with open(arguments.data / "jhmdb" / "splits.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                splits = [row[name] for name in JHMDB_SPLITS] + ["train"] * len(SUBJECTS)
                writer.writerow([f"jhmdb/{row['video']}", "", "", row["label"], *splits])
        with open(arguments.data / "gmdcsa24" / "annotations.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                splits = ["train"] * 3 + ["test" if row["subject"] == subject else "train" for subject in SUBJECTS]
                writer.writerow([f"gmdcsa24/{row['video']}", row["start_s"], row["end_s"], row["label"], *splits])
    with open(arguments.out / "map.csv", "w", encoding="utf-8", newline="") as target:
        csv.writer(target).writerows([("from", "to"), *MAP.items()])


if __name__ == "__main__":
    main()
