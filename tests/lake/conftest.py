"""A lake of made-up people, to be searched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.lake.query import LakeReader, open_lake
from tests.made_up import made_with_segments


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_with_segments(tmp_path_factory.mktemp("search") / "lake")


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(made_once, tmp_path / "lake")


@pytest.fixture
def lake(folder: Path) -> LakeReader:
    return open_lake(str(folder))
