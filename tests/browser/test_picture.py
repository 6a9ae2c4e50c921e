"""The picture of a report that the README shows is one of the report that `make demo` writes.

`ACTIONLAKE_PICTURES=docs python -m pytest tests/browser/test_picture.py` makes it anew.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page

from pipeline import analyze
from pipeline.engine.cuts import cut_here
from pipeline.report.report import write_report
from tests.browser.conftest import Wait
from tests.conftest import REPOSITORY

NAME = "report.jpg"


def test_the_readme_shows_what_the_demonstration_writes(
    page: Page, data_dir: Path, until: Wait, tmp_path: Path
) -> None:
    manifest = tmp_path / "street.csv"
    manifest.write_text(f"uri,start_s,end_s\n{data_dir / 'street' / 'vtest.avi'},40,60\n")
    analyze([str(manifest)], str(tmp_path / "lake"), engine="local")
    write_report(str(tmp_path / "lake"), tmp_path / "report", cut_here, title="make demo")
    page.set_viewport_size({"width": 1280, "height": 582})
    page.goto((tmp_path / "report" / "index.html").as_uri())
    page.evaluate("PLAYER.playAt(0, 57.7)")
    until("PLAYER.now()?.seconds > 57.6")
    page.keyboard.press("Space")
    until("!document.getElementById('video').seeking")
    shot = page.screenshot(type="jpeg", quality=80)
    folder = os.environ.get("ACTIONLAKE_PICTURES")
    if folder:
        (REPOSITORY / folder / NAME).write_bytes(shot)
    shown, kept = (
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        for data in (io.BytesIO(shot).getvalue(), (REPOSITORY / "docs" / NAME).read_bytes())
    )
    assert shown.shape == kept.shape
    # Scores, and so shades, differ a little between processors; the moment that is shown may be a frame apart.
    differ = np.abs(shown.astype(int) - kept.astype(int)).max(axis=2) > 60
    assert differ.mean() < 0.03
