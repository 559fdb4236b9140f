"""A headless Chromium for tests: pages from files and servers, as a reader would see them.

    def test_page(browser, tmp_path):
        with browser.open(tmp_path / "page.html", width=390, dark=True) as tab:
            tab.page.get_by_role("button", name="Sort").click()
            assert tab.errors == []

`tab.page` is a Playwright page: `click`, `fill`, `locator`, `evaluate`, `screenshot(path=…)`, ….
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .programs import require_program

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Tab:
    """One page in a browser profile of its own.

    Attributes:
        page: Playwright's page.
        errors: what was written to the console as an error, exceptions nobody caught, and
            requests that failed, in order.
        requests: address of everything the page asked for, itself included.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self) -> str:
        """What a reader can see and select."""
        return str(self.page.inner_text("body"))

    def wait_for_text(self, text: str, seconds: float = 20.0) -> None:
        """Wait until the page shows a text somewhere; TimeoutError if it never does."""
        shown = self.page.get_by_text(text).filter(visible=True)
        shown.first.wait_for(timeout=1000 * seconds)


class Browser:
    """A running Chromium, from Playwright's handle on it."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium

    @contextmanager
    def open(
        self,
        url: str | Path,
        *,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        scale: float = 1.0,
        **context: Any,
    ) -> Iterator[Tab]:
        """Open a page for the duration of the block.

        Arguments:
            url: an address, or a file.
            width, height: of the viewport, CSS pixels.
            dark: what `prefers-color-scheme` says.
            scale: device pixels per CSS pixel, for screenshots.
            context: further options of Playwright's `new_context`.
        """
        profile = self._chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            device_scale_factor=scale,
            **context,
        )
        tab = Tab(profile.new_page())
        tab.page.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.on(
            "requestfailed", lambda request: tab.errors.append(f"{request.url}: {request.failure}")
        )
        try:
            tab.page.goto(url.absolute().as_uri() if isinstance(url, Path) else url)
            yield tab
        finally:
            profile.close()


@contextmanager
def running_browser() -> Iterator[Browser]:
    """The system's Chromium with a fresh profile, for the duration of the block."""
    from playwright.sync_api import sync_playwright

    program = require_program("chromium", "chromium-browser", "google-chrome")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program,
            headless=True,
            args=FLAGS,
            downloads_path=scratch,
        )
        try:
            yield Browser(chromium)
        finally:
            chromium.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; each page it opens has a profile of its own."""
    with running_browser() as found:
        yield found
