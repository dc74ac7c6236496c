"""A headless Chromium that opens pages of one server only."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, sync_playwright

# Chromium runs as root, in containers, without a screen, and must send no requests of its own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@contextlib.contextmanager
def chromium(program: Path) -> Iterator[Browser]:
    """A browser, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """An open page, and the problems that the browser reported.

    Attributes:
        page: The page.
        complaints: Errors in its console, exceptions, dialogs, and requests to other servers than its own.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self._server = urlsplit(url).netloc
        page.on("console", self._console)
        page.on("pageerror", self._error)
        page.on("request", self._request)
        page.on("dialog", self._dialog)
        page.goto(url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _error(self, error: Error) -> None:
        self.problems.append(f"exception: {error.message}")

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme != "data" and parts.netloc != self._server:
            self.problems.append(f"request: {request.url}")


@contextlib.contextmanager
def visit(browser: Browser, url: str, *, fake_clock: bool = False, **options: Any) -> Iterator[Visit]:
    """Open a page in a context of its own.

    Args:
        browser: The browser.
        url: The address of the page.
        fake_clock: Whether the page's timers wait until the test lets its time pass.
        options: Options of the context: viewport, color_scheme, java_script_enabled and so on.
    """
    with contextlib.closing(browser.new_context(**{"viewport": DESKTOP, **options})) as context:
        page = context.new_page()
        if fake_clock:
            page.clock.install()
        yield Visit(page, url)
