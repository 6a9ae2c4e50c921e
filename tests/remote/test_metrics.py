"""What can be seen of a job from outside: metrics, of which the dashboard asks for no others, and logs."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from pipeline import open_lake
from tests.conftest import REPOSITORY
from tests.remote.conftest import Head
from tests.test_cli import run

_NAME = re.compile(r"\bray_actionlake_\w+")


def asked() -> set[str]:
    dashboard = json.loads((REPOSITORY / "cluster" / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"]]
    return set(_NAME.findall(" ".join(queries)))


@pytest.mark.e2e
@pytest.mark.long
def test_the_dashboard_asks_for_what_a_job_exports(head: Head, archive: Path, options: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    command = ["--", "analyze", archive, "--config", options, "--lake", lake]
    assert run("submit", "--address", head.url, "--id", "measured", "--detach", *command, env=head.env).returncode == 0
    wanted = asked()
    assert len(wanted) > 6
    seen: dict[str, float] = {}
    while (state := head.state("measured")) != "SUCCEEDED":
        assert state != "FAILED"
        with urllib.request.urlopen(head.metrics_url) as answer:
            for line in answer.read().decode().splitlines():
                if f'lake="{lake}"' in line:
                    name, value = line.split("{")[0], line.rsplit(" ", 1)[1]
                    seen[name] = max(seen.get(name, 0.0), float(value))
    # Nothing failed, so of that nothing was counted.
    of_failures = {name for name in wanted if re.search("failed|partial|failures", name)}
    assert wanted - of_failures <= seen.keys()
    assert seen["ray_actionlake_stage_seconds_total"] > 0
    assert_logged(head, lake)


def assert_logged(head: Head, lake: Path) -> None:
    """Assert that workers have told, as JSON, of each chunk that it was begun and done, and of each shard's commit."""
    records = []
    for path in (head.session / "logs").glob("worker-*.err"):
        for line in path.read_text().splitlines():
            if line.startswith("{"):
                records.append(json.loads(line))
    videos = {row["video_id"]: row["n_chunks"] for row in open_lake(str(lake)).table("videos").to_pylist()}
    for message in ("chunk begun", "chunk done"):
        told = [(each["video_id"], each["chunk"]) for each in records if each["message"] == message]
        told = [key for key in told if key[0] in videos]
        assert sorted(set(told)) == sorted((video, chunk) for video, n in videos.items() for chunk in range(n))
    assert {each["shard"] for each in records if each["message"] == "shard committed"} >= {0, 1, 2, 3}
