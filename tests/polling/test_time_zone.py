"""The check of api.timezone by the polling, against the simulated API in another zone."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.serving.instruments import Instruments
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World
from exporter.storage.state import State, open_state
from exporter.views import MerchantView
from tests.support.audience import folder_in_memory, mark_history_known
from tests.support.direct import URL, DirectAdapter
from tests.support.fakes import FakeClock

HOUR = 3600.0
# 2025-06-15, 20:06 in Tokyo.
START = 1_749_985_560.0


class Exporter:
    """An exporter with one media, and the simulated API in some zone."""

    def __init__(self, folder: Path, api_zone: str, start: float = START) -> None:
        self.clock = FakeClock(start)
        self.world = World(zone=ZoneInfo(api_zone), media=3)
        self.switch = FaultSwitch(self.world, self.clock.now)
        self.app = SimulatorApp(self.world, self.switch, self.clock.now)
        self.folder = folder
        self.state: State | None = None
        self.polling: Polling

    def start(self, timezone: str) -> None:
        """Start, or restart, with this setting."""
        self.close()
        media_id = next(iter(self.world.catalog("m")))
        merchant = {
            "id": "m",
            "api_key": "k",
            "mail_address": "a@b",
            "password": "p",
            "collect": [{"target": "play_count"}],
            "media": [{"id": media_id}],
        }
        settings = Settings.model_validate(
            {"api": {"url": URL, "timezone": timezone}, "merchants": [merchant], "poll": {"concurrency": 1}}
        )
        self.state = open_state(self.folder / "state.db", self.clock.now)
        mark_history_known(self.state, "m", ["", media_id])
        self.polling = Polling(settings, self.state, Instruments(), self.clock, lambda: DirectAdapter(self.app))

    def close(self) -> None:
        """Stop."""
        if self.state is not None:
            self.polling.close()
            self.state.close()
            self.state = None

    def rounds(self, minutes: int) -> MerchantView:
        """Run a round in each of so many minutes; returns what is shown after them."""
        for _ in range(minutes):
            self.polling.pollers["m"].round()
            view = self.view
            self.clock.advance(60)
        return view

    @property
    def view(self) -> MerchantView:
        """What is shown."""
        return self.polling.snapshot().merchants["m"]


@pytest.fixture
def exporter(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Exporter]:
    with folder_in_memory(tmp_path) as folder:
        made = Exporter(Path(folder), *request.param)
        yield made
        made.close()


def api(*parts: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("exporter", [parts], indirect=True, ids=[str(parts[0])])


def warnings(lines: Sequence[EventDict]) -> list[str]:
    return [str(line["event"]) for line in lines if line["log_level"] == "warning"]


@api("Asia/Tokyo")
@pytest.mark.parametrize(("timezone", "hours"), [("UTC", 9), ("Asia/Kolkata", 3.5), ("America/Los_Angeles", 16)])
def test_a_zone_too_far_west(exporter: Exporter, timezone: str, hours: float) -> None:
    """Rows in the future are reported in the first round, in the log once. After a restart with the right zone, the
    error is gone.
    """
    with capture_logs() as lines:
        exporter.start(timezone)
        view = exporter.rounds(1)
        assert view.timezone_offset == hours * HOUR
        assert timezone in view.timezone_error
        assert "UTC+09:00" in view.timezone_error
        assert exporter.rounds(20).timezone_offset == hours * HOUR
    assert warnings(lines) == [view.timezone_error]
    exporter.start("Asia/Tokyo")
    view = exporter.rounds(1)
    assert (view.timezone_offset, view.timezone_error) == (0.0, "")


@api("UTC")
@pytest.mark.parametrize(("timezone", "hours"), [("Asia/Tokyo", 9), ("Asia/Kolkata", 5.5), ("Europe/London", 1)])
def test_a_zone_too_far_east(exporter: Exporter, timezone: str, hours: float) -> None:
    """Rows that are hours old, and move on, are reported within six minutes. A restart with the right zone ends it."""
    with capture_logs() as lines:
        exporter.start(timezone)
        assert exporter.rounds(3).timezone_offset is None
        view = exporter.rounds(4)
        assert view.timezone_offset == -hours * HOUR
        assert timezone in view.timezone_error
        assert exporter.rounds(20).timezone_error == view.timezone_error
    assert warnings(lines) == [view.timezone_error]
    exporter.start("UTC")
    view = exporter.rounds(1)
    assert (view.timezone_offset, view.timezone_error) == (0.0, "")


@api("Asia/Tokyo")
def test_the_right_zone_costs_a_request_an_hour(exporter: Exporter) -> None:
    """The first request shows that the zone fits; it is checked again an hour later."""
    exporter.start("Asia/Tokyo")
    assert exporter.rounds(1).timezone_offset == 0.0
    exporter.rounds(130)
    assert checks(exporter) == 3


@api("Asia/Tokyo")
def test_a_quiet_merchant_is_not_wrong(exporter: Exporter) -> None:
    """Nobody plays anything for hours, and then somebody does: at no time is the zone said to be wrong."""
    exporter.world.thin(START, {"": 0.0})
    exporter.clock.advance(50 * 60)
    exporter.start("Asia/Tokyo")
    for _ in range(4 * 60):
        assert exporter.rounds(1).timezone_error == ""
    exporter.world.thin(exporter.clock.now(), {})
    assert exporter.rounds(20).timezone_offset == 0.0


@api("Asia/Tokyo")
def test_an_outage_is_not_a_wrong_zone(exporter: Exporter) -> None:
    """No rows arrive from an hour before the start on, for hours, then all of them."""
    exporter.switch.set(stalled_since=START - 3480)
    exporter.start("Asia/Tokyo")
    for _ in range(3 * 60):
        assert exporter.rounds(1).timezone_error == ""
    exporter.switch.set(stalled_since=None)
    assert exporter.rounds(6).timezone_offset == 0.0


@api("Asia/Tokyo")
def test_an_api_that_refuses_long_ranges_and_fails(exporter: Exporter) -> None:
    """A refused range is asked for in parts, the future apart from the past; other failures are retried later."""
    exporter.switch.set(max_range=600)
    exporter.start("UTC")
    assert (exporter.rounds(4).timezone_offset or 0) > 0
    exporter.switch.set(max_range=0, error_rate=1.0)
    exporter.start("UTC")
    assert exporter.rounds(3).timezone_offset is None
    exporter.switch.set(error_rate=0.0)
    assert exporter.rounds(7).timezone_offset == 9 * HOUR


# 2026-03-08, 01:30 in New York: half an hour before the clocks are set forward; and 2026-11-01, 00:30: an hour and a
# half before they are set back.
SPRING, AUTUMN = 1_772_951_400.0, 1_793_507_400.0


@pytest.mark.parametrize("exporter", [("America/New_York", SPRING), ("America/New_York", AUTUMN)], indirect=True)
def test_a_change_of_the_clocks_is_not_a_wrong_zone(exporter: Exporter) -> None:
    """A zone with summer time fits before, during and after the change."""
    exporter.start("America/New_York")
    for _ in range(5 * 60):
        assert exporter.rounds(1).timezone_offset == 0.0


@api("America/New_York", SPRING)
def test_a_zone_without_summer_time(exporter: Exporter) -> None:
    """It fits until the clocks are set forward. Then it is an hour off, which is noticed within an hour."""
    exporter.start("Etc/GMT+5")
    assert exporter.rounds(20).timezone_offset == 0.0
    assert exporter.rounds(90).timezone_offset == HOUR


def checks(exporter: Exporter) -> int:
    """How many requests asked for more than the history does: for two days by the minute."""
    return sum(_days(each.query) > 2 for each in exporter.app.journal.newest() if "interval=minute" in each.query)


def _days(query: str) -> float:
    first, last = (datetime.strptime(f"{parse_qs(query)[key][0]}Z", "%Y%m%d%H%M%S%z") for key in ("from", "to"))
    return (last - first) / timedelta(days=1)
