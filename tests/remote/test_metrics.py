"""What Prometheus is told of a job, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

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
