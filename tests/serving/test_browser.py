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

from exporter.httpd.address import Address
from exporter.serving.page import media_page
from exporter.serving.page import page as render
from exporter.serving.routes import create_app, make_server
from exporter.serving.schema import Cause, CauseKind, Health, MediaState, Status
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
            lambda *_: (),
            healthy=lambda: None,
            ready=lambda: None,
            page=self._page,
            media_page=lambda _, media_id: media_page(self.status, media_id),
            status_json=lambda _: as_json(self.status),
            config_text=lambda: "",
            docs=lambda: "",
            reload=lambda: (),
        )
        self._server = make_server(app, [Address("127.0.0.1", 0)])
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
    texts = "all => all.map(each => each.textContent.trim())"
    found: list[str] = page.locator(".media tbody tr:visible th a").evaluate_all(texts)
    return found


def refreshed(visited: Visit, shown: StatusServer, **changes: Any) -> None:
    """Change the merchant on the server, and wait until the page shows it."""
    status = shown.status
    merchants = (replace(status.merchants[0], **changes),)
    now = f"Changed at {time.monotonic()}."
    cause = Cause(Health.WARNING, CauseKind.PROCESS, "clock", None, None, now)
    shown.status = replace(status, merchants=merchants, causes=(cause, *status.causes[1:]))
    visited.page.clock.run_for(REFRESH)
    expect(visited.page.locator("#health")).to_contain_text(now)


def test_a_daemon_shows_its_media_and_an_error_without_reloading(browser: Browser, tmp_path: Path) -> None:
    """Media of the API appear with their charts, and a hostile name stays text. When the API fails, the open page
    shows it in the health, in the facts and among the requests. Each media has a page. The console has no error, and
    the page loads nothing else.
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
                expect(page.locator("#health")).to_contain_text("12 media are judged")
                expect(page.locator(".media .spark .plays[d^=M]").first).to_be_visible()
                assert sorted(names(page)) == sorted(each["name"] for each in media)
                page.evaluate("window.notReloaded = true")
                switch.set(error_rate=1.0)
                expect(page.locator("#health")).to_contain_text(f"{MERCHANT}: the API is down")
                expect(page.locator("#facts-1")).to_contain_text(": 500")
                page.get_by_role("heading", name="Latest requests").click()
                expect(page.locator("tr.failed", has_text="whole merchant/play_count/all").first).to_be_visible()
                assert page.evaluate("window.notReloaded")
                page.get_by_role("rowheader", name=NASTY).get_by_role("link").click()
                expect(page.get_by_role("heading", level=1)).to_contain_text(NASTY)
                expect(page.get_by_role("img", name="Plays of the last hour")).to_be_visible()
                assert page.request.get(f"{url}media?merchant={MERCHANT}&media=other").status == 404
            assert visited.problems == []


def test_every_media_has_a_chart_and_a_bar(browser: Browser, shown: StatusServer) -> None:
    """The charts are as wide as their cells, the expected line dashed and in another color. The bar of the last 24
    hours has a color and a height for each state.
    """
    with visit(browser, shown.url) as visited:
        page = visited.page
        assert page.locator(".media .spark").count() == page.locator(".media .day").count() == 60
        box = page.locator(".media .spark .plays").first.bounding_box()
        assert box is not None
        assert box["width"] > 90
        look = "line => [getComputedStyle(line).stroke, getComputedStyle(line).strokeDasharray]"
        plays, expected = (page.locator(f".media .{name}").first.evaluate(look) for name in ("plays", "expected"))
        assert plays[0] != expected[0]
        assert (plays[1], expected[1]) == ("none", "3px, 3px")
        expect(page.get_by_role("img", name="Plays of the last hour").first).to_be_visible()
        expect(page.get_by_role("img", name="critical 16:30–17:00")).to_be_visible()
        look = "line => [getComputedStyle(line).stroke, getComputedStyle(line).strokeWidth]"
        states = [
            page.locator(f".media .day .{name}").first.evaluate(look) for name in ("judged", "warning", "critical")
        ]
        assert len({color for color, _ in states}) == len({width for _, width in states}) == 3


def test_columns_are_sorted_by_keyboard(browser: Browser, shown: StatusServer) -> None:
    """A column heading is a button. It sorts descending, then ascending, then the worst first again;
    unknown values are last.
    """
    first = replace(shown.status.merchants[0].media[0], last_minute_plays=None)
    merchant = shown.status.merchants[0]
    shown.status = replace(shown.status, merchants=(replace(merchant, media=(first, *merchant.media[1:])),))
    # The third has dropped, to 3 plays, and the fifth fails.
    least = ["Media 2", "Media 1", *[f"Media {number}" for number in range(3, 60)]]
    worst = ["Media 2", "Media 4", "Media 0", "Media 1", "Media 3", *[f"Media {number}" for number in range(5, 60)]]
    with visit(browser, shown.url) as visited:
        page = visited.page
        heading = page.get_by_role("columnheader", name="Plays per minute")
        page.get_by_role("button", name="Drop", exact=True).focus()
        page.keyboard.press("Tab")
        seen = [("none", names(page))]
        for _ in range(3):
            page.keyboard.press("Enter")
            seen.append((heading.get_attribute("aria-sort") or "", names(page)))
        button = page.get_by_role("button", name="Plays per minute")
        assert button.evaluate("button => button === document.activeElement")
    assert seen == [
        ("none", worst[:50]),
        ("descending", [*reversed(least)][:50]),
        ("ascending", least[:50]),
        ("none", worst[:50]),
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
        assert len(names(page)) == 50
        # Only the fifth has an error. Its age, which all rows have, is not searched.
        page.get_by_label("Filter media").fill("server_error")
        assert names(page) == ["Media 4"]
        page.get_by_label("Filter media").fill("min")
        assert names(page) == []


@pytest.mark.parametrize("count", [12, 300])
def test_tiles_filter_the_media(browser: Browser, count: int) -> None:
    """A tile with its number shows the media that it counts; a second click shows all again."""
    with contextlib.closing(StatusServer(status_with_media(count))) as server, visit(browser, server.url) as visited:
        page = visited.page
        tiles = page.get_by_role("group", name="Media by state")
        expect(tiles.get_by_role("button", name=f"{count} Media", pressed=True)).to_be_visible()
        for label, found in [("Critical drops", ["Media 2"]), ("Gone or failing", ["Media 4"]), ("Learning", [])]:
            tile = tiles.get_by_role("button", name=f"{len(found)} {label}")
            tile.click()
            expect(tile).to_have_attribute("aria-pressed", "true")
            assert names(page) == found
            expect(page.get_by_text(f"{len(found)} of {count} media", exact=True)).to_be_visible()
        tiles.get_by_role("button", name="Learning").click()
        assert len(names(page)) == min(count, 50)
        tiles.get_by_role("button", name="Judged").click()
        assert len(names(page)) == min(count, 50)
        assert visited.problems == []


def test_the_address_has_the_filter_the_tile_the_sort_and_the_page(browser: Browser) -> None:
    """A link shows the same rows again, also after a change of the address by hand; without a choice it is short."""
    with contextlib.closing(StatusServer(status_with_media(300))) as server:
        with visit(browser, server.url) as visited:
            page = visited.page
            page.get_by_role("button", name="Judged").click()
            page.get_by_label("Filter media").fill("media 1")
            page.get_by_role("button", name="Media", exact=True).click()
            page.get_by_role("button", name="Media", exact=True).click()
            page.get_by_role("button", name="Next").click()
            seen, address = names(page), page.url
            expect(page.get_by_text("Page 2 of 3")).to_be_visible()
        assert address == f"{server.url}#filter=media+1&show=judged&sort=-media&page=2"
        with visit(browser, address) as visited:
            page = visited.page
            assert names(page) == seen
            expect(page.get_by_label("Filter media")).to_have_value("media 1")
            expect(page.get_by_role("button", name="Judged")).to_have_attribute("aria-pressed", "true")
            expect(page.locator("#media").get_by_role("columnheader", name="Media")).to_have_attribute(
                "aria-sort", "descending"
            )
            page.evaluate("location.hash = 'show=critical'")
            expect(page.get_by_text("1 of 300 media", exact=True)).to_be_visible()
            page.get_by_role("button", name="Critical drops").click()
            assert page.url == server.url
            for odd in ("page=99", "page=x", "sort=nothing", "show=nothing", "%"):
                page.evaluate("fragment => location.hash = fragment", odd)
                expect(page.locator(".media tbody tr").first).to_be_attached()
        assert visited.problems == []


def test_hundreds_of_media_have_pages(browser: Browser) -> None:
    """50 rows are shown at once. The buttons lead to the others, and do nothing at the ends. The headings stay."""
    with contextlib.closing(StatusServer(status_with_media(120))) as server, visit(browser, server.url) as visited:
        page = visited.page
        previous, following = (page.get_by_role("button", name=name) for name in ("Previous", "Next"))
        sizes = [len(names(page))]
        for _ in range(2):
            following.click()
            sizes.append(len(names(page)))
        # Playwright waits for a button to be enabled; a person does not.
        following.dispatch_event("click")
        assert [*sizes, len(names(page))] == [50, 50, 20, 20]
        expect(following).to_have_attribute("aria-disabled", "true")
        previous.click()
        expect(page.get_by_text("Page 2 of 3")).to_be_visible()
        page.locator(".media tbody tr:visible").last.scroll_into_view_if_needed()
        expect(page.get_by_role("columnheader", name="Plays per minute")).to_be_in_viewport()
        page.get_by_label("Filter media").fill("media 1")
        assert len(names(page)) == 39
        expect(following).to_be_hidden()
        assert visited.problems == []


def test_a_refresh_keeps_the_users_state(browser: Browser, shown: StatusServer) -> None:
    """Sort, filter, tile, focus, folds and scroll position stay when new data comes; the page is not reloaded."""
    with visit(browser, shown.url, fake_clock=True) as visited:
        page = visited.page
        page.evaluate("window.notReloaded = true")
        page.get_by_role("button", name="Plays per minute").click()
        page.get_by_role("button", name="Judged").click()
        page.get_by_text("Polling of acme").click()
        page.get_by_label("Filter media").fill("media")
        page.evaluate("scrollTo(0, 400)")
        media = shown.status.merchants[0].media
        best = replace(media[7], last_minute_plays=1e6)
        refreshed(visited, shown, media=(*media[:7], best, *media[8:]))
        assert names(page)[0] == "Media 7"
        assert page.evaluate("[notReloaded, scrollY, document.activeElement.id]") == [True, 400, "filter"]
        expect(page.get_by_text("60 of 60 media", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Judged")).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_text("Request budget")).to_be_visible()
        # What is replaced keeps the focus, too.
        for part in (
            page.get_by_role("button", name="Judged"),
            page.get_by_role("rowheader", name="Media 7").locator("a"),
        ):
            part.focus()
            refreshed(visited, shown, lost_minutes=int(time.monotonic() * 1000))
            expect(part).to_be_focused()
    assert visited.problems == []


def test_a_fold_of_an_incident_stays_open(browser: Browser, shown: StatusServer) -> None:
    """The media of a merchant's incident, once unfolded, stay so with new data."""
    drop = shown.status.merchants[0].incidents[0]
    drops = (replace(drop, media_id="", name=""), replace(drop, with_merchant=True))
    merchant = replace(shown.status.merchants[0], incidents=drops)
    shown.status = replace(shown.status, merchants=(merchant,))
    with visit(browser, shown.url, fake_clock=True) as visited:
        link = visited.page.locator("#incidents").get_by_role("link", name="Media 2")
        expect(link).to_be_hidden()
        visited.page.get_by_text("1 media dropped with it").click()
        expect(link).to_be_visible()
        refreshed(visited, shown, incidents=(replace(drops[0], lost=9999.0), drops[1]))
        expect(visited.page.locator("#incidents")).to_contain_text("9,999")
        expect(link).to_be_visible()


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
        visited.page.goto(f"{shown.url}media?merchant=x&media=m0")
        expect(visited.page.get_by_role("heading", level=1)).to_contain_text(NASTY)
        assert visited.page.locator("img").count() == 0
    assert visited.problems == []


def test_the_page_of_a_media_is_refreshed(browser: Browser, shown: StatusServer) -> None:
    """Its state changes in place, and it has no error without a table of media."""
    with visit(browser, f"{shown.url}media?merchant=acme&media=m2", fake_clock=True) as visited:
        page = visited.page
        page.evaluate("window.notReloaded = true")
        expect(page.locator("#state")).to_contain_text("critical drop")
        merchant = shown.status.merchants[0]
        media = [replace(each, states=(MediaState.JUDGED,)) for each in merchant.media]
        shown.status = replace(shown.status, merchants=(replace(merchant, media=tuple(media)),))
        page.clock.run_for(REFRESH)
        expect(page.locator("#state")).to_contain_text("good")
        assert page.evaluate("window.notReloaded")
        page.get_by_role("link", name="All media").click()
        assert len(names(page)) == 50
    assert visited.problems == []


def test_the_page_works_without_javascript(browser: Browser, shown: StatusServer) -> None:
    """The rows and pictures are in the page itself, the worst first; it reloads itself; what needs a script is not
    shown.
    """
    with visit(browser, shown.url, java_script_enabled=False) as visited:
        page = visited.page
        assert page.locator(".media tbody tr").count() == 60
        expect(page.locator(".media tbody tr").first).to_contain_text("Media 2")
        assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
        expect(page.locator("#filter")).to_be_hidden()
        expect(page.locator("#pager")).to_be_hidden()


@pytest.mark.parametrize("count", [12, 300])
@pytest.mark.parametrize(("viewport", "limit"), [(DESKTOP, 4500), (PHONE, 6000)], ids=["desktop", "phone"])
def test_the_page_is_not_endless(browser: Browser, count: int, viewport: Mapping[str, int], limit: int) -> None:
    """However many media there are, the page is at most as long as its first 50 rows, on a phone 20, and not wider
    than the screen. The age of the data and the error of a media are visible.
    """
    status = status_with_media(count)
    with contextlib.closing(StatusServer(status)) as server, visit(browser, server.url, viewport=viewport) as visited:
        page = visited.page
        width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert width <= viewport["width"]
        assert height < limit
        failing = page.locator(".media tbody tr", has_text="Media 4").first
        expect(failing.get_by_text("503 SERVER_ERROR")).to_be_visible()
        expect(failing.locator("time", has_text="6 min")).to_be_visible()
        for part in failing.locator("td:visible").all():
            box = part.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= viewport["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("path", ["", "media?merchant=acme&media=m2"], ids=["all", "one"])
def test_the_page_is_accessible(
    browser: Browser, shown: StatusServer, path: str, viewport: Mapping[str, int], scheme: str
) -> None:
    """Axe finds no problem with contrast, headings, table headers, names and landmarks. Nothing is wider than the
    screen, and the background follows the color scheme.
    """
    [merchant] = status_with_media(12).merchants
    every = [replace(each, states=(state,)) for each, state in zip(merchant.media[3:], MediaState, strict=False)]
    failing: dict[str, Any] = {"up": False, "last_error": "503 " + "x" * 200, "last_error_at": NOW}
    merchant = replace(merchant, media=(*merchant.media[:3], *every), **failing)
    if not path:
        shown.status = replace(shown.status, merchants=(merchant, replace(merchant, merchant_id="second")))
    with visit(browser, f"{shown.url}{path}", viewport=viewport, color_scheme=scheme) as visited:
        page = visited.page
        if not path:
            page.get_by_role("button", name="Plays per minute").first.click()
            page.get_by_role("heading", name="Latest requests").click()
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", background)))
        assert (brightness > 600) == (scheme == "light")
    assert visited.problems == []
