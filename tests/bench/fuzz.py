"""Run a job over thousands of broken videos. It must end, and every file must have a row.

    python -m tests.bench.fuzz [--files 20000] [--seed 0] [--data ../shared/data] [--out fuzz.json]

The files are real clips and encodings in every supported format, with flipped bits, lost ends, spliced tails, special
numbers in headers, blanks and repeats. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline import Config, analyze, open_lake
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from tests.fuzzing import write_broken
from tests.synthetic import RECIPES, make_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "sound").mkdir()
        clips = sorted(folder_of[0] for folder_of in _by_folder(options.data / "jhmdb" / "clips") if folder_of)
        sources = clips + [make_video(folder / "sound" / recipe.name, recipe, n_frames=20) for recipe in RECIPES]
        write_broken(sources, folder / "broken", options.files, options.seed)
        config = Config(scope="frame", sample_fps=2.0, deadline_base_s=20.0, deadline_per_s=2.0)
        started = time.monotonic()
        state = analyze(str(folder / "broken"), str(folder / "lake"), config=config)
        wall_s = time.monotonic() - started
        lake = open_lake(str(folder / "lake"))
        rows = lake.table("videos", ["uri", "status"]).to_pylist()
        failures = lake.table("failures", ["stage", "kind", "message"]).to_pylist()
        found = {
            "files": options.files,
            "seed": options.seed,
            "sources": len(sources),
            "cpus": os.cpu_count(),
            "wall_s": round(wall_s, 1),
            "rows": len(rows),
            "files_without_a_row": options.files - len({row["uri"] for row in rows}),
            "status": Counter(row["status"] for row in rows),
            "failures": Counter(f"{row['stage']}: {row['kind']}" for row in failures),
            "given_up": [row["message"] for row in failures if row["kind"] in ("worker_died", "deadline", "memory")],
            "video_s_seen": round(state.covered_s, 1),
            "problems": [str(problem) for problem in verify(Lake(str(folder / "lake")))],
        }
        options.out.write_text(json.dumps(found, indent=1))
        print(json.dumps(found, indent=1))


def _by_folder(root: Path) -> list[list[Path]]:
    return [sorted(folder.glob("*.mp4")) for folder in sorted(root.iterdir()) if folder.is_dir()]


if __name__ == "__main__":
    main()
