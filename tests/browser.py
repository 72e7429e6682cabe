"""A headless browser that notes what a page asks of the network and what it complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)
# Snakemake's own: of its style sheet, and of its plots of run times (where a job took no time).
KNOWN = (
    "cdn.tailwindcss.com should not be used in production",
    "The input spec uses Vega-Lite",
    "Log scale domain includes zero",
)
LOCAL = ("file:", "data:", "blob:", "about:")


@contextmanager
def opened(page: Path) -> Iterator[tuple[Any, list[str]]]:
    """A page in the browser, and what went wrong with it so far; skips where there is no browser."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright, which drives the browser")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on the PATH to open the report with")
    faults: list[str] = []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        try:
            tab = browser.new_page(viewport={"width": 1500, "height": 900})
            tab.set_default_timeout(30_000)
            tab.on("console", lambda said: faults.append(said.text) if _bad(said) else None)
            tab.on("pageerror", lambda error: faults.append(str(error)))
            tab.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(LOCAL) else None)
            tab.goto(page.resolve().as_uri())
            yield tab, faults
        finally:
            browser.close()


def _bad(said: Any) -> bool:
    return said.type in ("error", "warning") and not any(known in said.text for known in KNOWN)
