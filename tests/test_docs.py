"""Examples in docstrings and in the guide for Python do what they show."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path

import pytest

import pipeline
from tests.conftest import REPOSITORY

OPTIONS = doctest.NORMALIZE_WHITESPACE
PIECES = ("decode", "detect", "embed", "follow", "label")


@pytest.fixture(autouse=True)
def here(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a street in it."""
    shutil.copy(street, tmp_path / "street.mp4")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PIECES)
def test_the_example_of_a_docstring(name: str) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(
        getattr(pipeline, name), name, module=inspect.getmodule(getattr(pipeline, name)), globs={"pipeline": pipeline}
    )
    assert example.examples
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(example).failed == 0


@pytest.mark.e2e
def test_the_guide_for_python() -> None:
    found = doctest.testfile(str(REPOSITORY / "docs" / "python.md"), module_relative=False, optionflags=OPTIONS)
    assert found.attempted > 15
    assert found.failed == 0


def test_public_names_are_few_and_all_there() -> None:
    assert len(pipeline.__all__) <= 20
    assert all(inspect.getdoc(getattr(pipeline, name)) for name in pipeline.__all__)
    assert dir(pipeline) == sorted(pipeline.__all__)
