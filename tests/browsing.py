"""Debian's Chromium, driven by Playwright: how it is started, and how one waits for what a page does."""

from __future__ import annotations

import os
import shutil

from playwright.sync_api import Browser, Page, Playwright

# It runs as root in CI, and reaches for no network of its own.
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def chromium_program() -> str | None:
    """Return where the browser lies, if there is one."""
    return os.environ.get("ACTIONLAKE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def launched(playwright: Playwright) -> Browser:
    """Return the browser, started."""
    return playwright.chromium.launch(executable_path=chromium_program(), args=list(_FLAGS))


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression in a page is true, which it looks at before every picture.

    Playwright's own way of waiting needs `eval`, which the page of a review forbids.
    """
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
