"""Debian's Chromium, driven by Playwright; a lake to show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.shown import make_lake

# It runs as root in CI, and reaches for no network of its own.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser; without it skip, but never in CI."""
    program = os.environ.get("ACTIONLAKE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        message = "no Chromium: `make browser` installs Debian's; or name one by ACTIONLAKE_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
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
    """Waits until an expression in the page is true, which it looks at before every picture.

    Playwright's own way of waiting needs `eval`, which the page of a review forbids.
    """

    def wait(expression: str) -> None:
        page.evaluate(
            f"""() => new Promise((resolve, reject) => {{
                const late = performance.now() + 20000;
                const look = () => {{
                    let met = false;
                    try {{ met = {expression}; }} catch (error) {{ met = false; }}
                    if (met) resolve();
                    else if (performance.now() > late) reject(new Error("never true"));
                    else requestAnimationFrame(look);
                }};
                look();
            }})"""
        )

    return wait
