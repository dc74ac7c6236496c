"""The status page in a real browser."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from prometheus_client import CollectorRegistry

from exporter.httpd.address import Address
from exporter.serving.page import page as render
from exporter.serving.routes import create_app, make_server
from exporter.serving.schema import Status
from exporter.serving.status import as_json
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.browser import DESKTOP, PHONE, Visit, chromium, visit
from tests.support.processes import MERCHANT, PATIENCE, Daemon, configuration, settle_in
from tests.support.statuses import NOW, status_with_media

pytestmark = pytest.mark.real_time

expect.set_options(timeout=PATIENCE * 1000)

# Longer than the refresh interval of the page (milliseconds).
REFRESH = 11_000

NASTY = "<img src=x onerror=alert(1)><script>alert(2)</script>天気"


@pytest.fixture(scope="module")
def browser(chromium_bin: Path) -> Iterator[Browser]:
    with chromium(chromium_bin) as browser:
        yield browser


class StatusServer:
    """A server with a status page.

    Attributes:
        status: The status; a test changes it.
        failing: Whether the response is a 500 instead.
        url: The address of the server.
    """

    def __init__(self, status: Status) -> None:
        self.status = status
        self.failing = False
        app = create_app(
            CollectorRegistry(),
            healthy=lambda: None,
            ready=lambda: None,
            page=self._page,
            status_json=lambda _: as_json(self.status),
            config_text=lambda: "",
            docs=lambda: "",
        )
        self._server = make_server(app, Address("127.0.0.1", 0))
        self.url = f"http://{self._server.address}/"
        self._server.start()

    def _page(self, _: str) -> str:
        if self.failing:
            raise RuntimeError("as the test wants")
        return render(self.status)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()


@pytest.fixture
def shown() -> Iterator[StatusServer]:
    with contextlib.closing(StatusServer(status_with_media(60))) as server:
        yield server


def names(page: Page) -> list[str]:
    """The names of the shown media, in their order."""
    first_texts = "all => all.map(each => each.childNodes[0].textContent.trim())"
    found: list[str] = page.locator(".media tbody tr:visible th").evaluate_all(first_texts)
    return found


def refreshed(visited: Visit, shown: StatusServer, **changes: Any) -> None:
    """Change the merchant on the server, and wait until the page shows it."""
    status = shown.status
    merchants = (replace(status.merchants[0], **changes),)
    shown.status = replace(status, merchants=merchants, summary=f"Changed at {time.monotonic()}.")
    visited.page.clock.run_for(REFRESH)
    expect(visited.page.locator("#health")).to_contain_text(shown.status.summary)


def test_a_daemon_shows_its_media_and_an_error_without_reloading(browser: Browser, tmp_path: Path) -> None:
    """Media of the API appear with their sparklines, and a hostile name stays text. When the API fails, the open page
    shows it in the health, in the facts and among the requests. The console has no error, and the page loads nothing
    else.
    """
    world = World()
    switch = FaultSwitch(world, time.time, Faults(late_minutes=0, rate_limit=1000))
    media = [{"id": each.id, "name": each.name} for each in world.catalog(MERCHANT).values()]
    media[0]["name"] = NASTY
    with SimulatorServer(SimulatorApp(world, switch, time.time)) as api:
        config = configuration(
            api.url, {"media": media, "requests_per_minute": 900}, poll={"settle": settle_in(25), "max_lag": "10m"}
        )
        with Daemon(tmp_path, config) as daemon:
            daemon.wait_ready()
            url = daemon.line(r"\bmsg=started\b.* open=(\S+)")[1]
            with visit(browser, url) as visited:
                page = visited.page
                expect(page.locator("#health")).to_contain_text("The API is up.")
                expect(page.locator(".media .spark .plays[d*=L]").first).to_be_visible()
                assert names(page) == [each["name"] for each in media]
                page.evaluate("window.notReloaded = true")
                switch.set(error_rate=1.0)
                expect(page.locator("#health")).to_contain_text(f"The API is down for {MERCHANT}")
                expect(page.locator(".facts")).to_contain_text(": 500")
                expect(page.locator("tr.failed", has_text="whole merchant/play_count/all").first).to_be_visible()
                assert page.evaluate("window.notReloaded")
            assert visited.problems == []


def test_every_media_has_a_picture_with_the_expected_line(browser: Browser, shown: StatusServer) -> None:
    """The sparklines are as wide as their cells, the expected line dashed and in another color."""
    with visit(browser, shown.url) as visited:
        page = visited.page
        assert page.locator(".media .spark").count() == 60
        box = page.locator(".media .spark .plays").first.bounding_box()
        assert box is not None
        assert box["width"] > 90
        look = "line => [getComputedStyle(line).stroke, getComputedStyle(line).strokeDasharray]"
        plays, expected = (page.locator(f".media .{name}").first.evaluate(look) for name in ("plays", "expected"))
        assert plays[0] != expected[0]
        assert (plays[1], expected[1]) == ("none", "3px, 3px")
        expect(page.get_by_role("img", name="Plays of the last hour").first).to_be_visible()


def test_columns_are_sorted_by_keyboard(browser: Browser, shown: StatusServer) -> None:
    """A column heading is a button. It sorts descending, then ascending, then as configured;
    unknown values are last.
    """
    first = replace(shown.status.merchants[0].media[0], last_minute_plays=None)
    merchant = shown.status.merchants[0]
    shown.status = replace(shown.status, merchants=(replace(merchant, media=(first, *merchant.media[1:])),))
    configured = [media.name for media in merchant.media]
    with visit(browser, shown.url) as visited:
        page = visited.page
        heading = page.get_by_role("columnheader", name="Last minute")
        page.get_by_role("button", name="Media").focus()
        page.keyboard.press("Tab")
        seen = []
        for _ in range(3):
            page.keyboard.press("Enter")
            seen.append((heading.get_attribute("aria-sort"), names(page)))
        assert page.get_by_role("button", name="Last minute").evaluate("button => button === document.activeElement")
    # The third has dropped to 3 plays, and the first has no known ones.
    least = ["Media 2", "Media 1", *configured[3:]]
    assert seen == [
        ("descending", [*reversed(least), "Media 0"]),
        ("ascending", [*least, "Media 0"]),
        ("none", configured),
    ]
    assert visited.problems == []


def test_media_are_filtered_in_place(browser: Browser, shown: StatusServer) -> None:
    """The filter keeps the rows whose name, id, labels, states or error contain all of its words, and counts them."""
    with visit(browser, shown.url) as visited:
        page = visited.page
        page.get_by_label("Filter media").press_sequentially("CRITICAL media")
        assert names(page) == ["Media 2"]
        expect(page.get_by_text("1 of 60 media")).to_be_visible()
        page.get_by_label("Filter media").fill("")
        assert len(names(page)) == 60
        # Only the fifth has an error. Its age, which all rows have, is not searched.
        page.get_by_label("Filter media").fill("server_error")
        assert names(page) == ["Media 4"]
        page.get_by_label("Filter media").fill("min ago")
        assert names(page) == []


def test_a_refresh_keeps_the_users_state(browser: Browser, shown: StatusServer) -> None:
    """Sort, filter, focus and scroll position stay when new data comes; the page is not reloaded."""
    with visit(browser, shown.url, fake_clock=True) as visited:
        page = visited.page
        page.evaluate("window.notReloaded = true")
        page.get_by_role("button", name="Last minute").click()
        page.get_by_label("Filter media").fill("media")
        page.evaluate("scrollTo(0, 400)")
        media = shown.status.merchants[0].media
        best = replace(media[7], last_minute_plays=1e6)
        refreshed(visited, shown, media=(*media[:7], best, *media[8:]))
        assert names(page)[0] == "Media 7"
        assert page.evaluate("[notReloaded, scrollY, document.activeElement.id]") == [True, 400, "filter"]
        expect(page.get_by_text("60 of 60 media")).to_be_visible()
    assert visited.problems == []


def test_a_new_configuration_reloads_the_page(browser: Browser, shown: StatusServer) -> None:
    """When a merchant is added, its section is there with the next refresh."""
    with visit(browser, shown.url, fake_clock=True) as visited:
        one = shown.status.merchants[0]
        shown.status = replace(shown.status, merchants=(one, replace(one, merchant_id="second")))
        visited.page.clock.run_for(REFRESH)
        expect(visited.page.get_by_role("heading", name="Merchant second")).to_be_visible()


def test_an_unreachable_exporter_is_shown(browser: Browser, shown: StatusServer) -> None:
    """While no refresh succeeds, a line says that the data is stale; it disappears when one succeeds."""
    with visit(browser, shown.url, fake_clock=True) as visited:
        alert = visited.page.get_by_role("alert")
        expect(alert).to_be_hidden()
        shown.failing = True
        visited.page.clock.run_for(REFRESH)
        expect(alert).to_have_text("The exporter is unreachable. The data on this page is stale.")
        shown.failing = False
        visited.page.clock.run_for(REFRESH)
        expect(alert).to_be_hidden()


def test_hostile_texts_stay_texts(browser: Browser, shown: StatusServer) -> None:
    """Names, ids, labels and errors with tags run nothing, at first and after a refresh."""
    media = replace(
        shown.status.merchants[0].media[0], name=NASTY, labels={"a": NASTY}, last_error=NASTY, last_error_at=NOW
    )
    with visit(browser, shown.url, fake_clock=True) as visited:
        refreshed(visited, shown, media=(media,), merchant_id=NASTY, last_error=NASTY, last_error_at=NOW)
        assert names(visited.page) == [NASTY]
        visited.page.reload()
        assert names(visited.page) == [NASTY]
        assert visited.page.locator("img").count() == 0
    assert visited.problems == []


def test_the_page_works_without_javascript(browser: Browser, shown: StatusServer) -> None:
    """The rows and pictures are in the page itself, which reloads itself; what needs a script is not shown."""
    with visit(browser, shown.url, java_script_enabled=False) as visited:
        page = visited.page
        assert page.locator(".media tbody tr").count() == 60
        assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
        expect(page.locator("#filter")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_is_accessible(
    browser: Browser, shown: StatusServer, viewport: Mapping[str, int], scheme: str
) -> None:
    """Axe finds no problem with contrast, headings, table headers, names and landmarks. Only the tables are wider than
    the screen, and the background follows the color scheme.
    """
    [merchant] = status_with_media(6).merchants
    failing = replace(merchant, up=False, last_error="503 " + "x" * 200, last_error_at=NOW)
    shown.status = replace(shown.status, merchants=(failing, replace(merchant, merchant_id="second")))
    with visit(browser, shown.url, viewport=viewport, color_scheme=scheme) as visited:
        page = visited.page
        page.get_by_role("button", name="Last minute").first.click()
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)))
        assert (brightness > 600) == (scheme == "light")
    assert visited.problems == []
