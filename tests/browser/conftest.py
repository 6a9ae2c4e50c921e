"""Debian's Chromium, driven by Playwright; a lake to show."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browsing import chromium_program, launched, wait_until
from tests.shown import make_lake


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser; without it skip, but never in CI."""
    if chromium_program() is None:
        message = "no Chromium: `make browser` installs Debian's; or name one by ACTIONLAKE_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page on which any error of a script fails the test."""
    context = chromium.new_context(viewport={"width": 1400, "height": 860}, color_scheme="light")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("shown"))


Wait = Callable[[str], None]


@pytest.fixture
def until(page: Page) -> Wait:
    """Waits until an expression in the page is true."""
    return functools.partial(wait_until, page)
