"""Chromium for the tests of the page. Without it they are skipped, and say so."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = os.environ.get("EDDY_REQUIRE_BROWSER") == "1"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Use it in a fixture of a module: asyncio.run fails in its thread while it is open."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        text = f"THE PAGE WAS NOT TESTED IN A BROWSER: none of {', '.join(NAMES)} is here; install the package chromium"
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_BROWSER=1, but: {text}", pytrace=False)
        pytest.skip(text)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it has asked for and complained about.

    expected  words of errors in the console that belong to the test: an answer that is an error is one there, too
    """

    page: Page
    expected: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(15_000)
        self.page.on("request", self._asked)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _asked(self, request: Request) -> None:
        self.hosts.add(urlsplit(request.url).netloc)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


@contextmanager
def opened(browser: Browser, port: int, **options: object) -> Iterator[Opened]:
    """Open the page of a worker. At the end it must have asked nobody else, and have caused no unexpected error."""
    page = browser.new_page(**options)  # type: ignore[arg-type]
    seen = Opened(page)
    page.goto(f"http://127.0.0.1:{port}/")
    yield seen
    page.close()
    assert seen.hosts == {f"127.0.0.1:{port}"}
    assert [error for error in seen.errors if not any(word in error for word in seen.expected)] == []
