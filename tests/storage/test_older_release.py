"""A state file of release 0.1 is readable in this release: an upgrade loses nothing and resets no counter."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.api.budget import RequestBudget
from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.counting.ledger_rows import read_rates
from exporter.errors import BudgetSpent
from exporter.model import Group, MinuteRange, Stream, Target, minute_of
from exporter.serving.instruments import Instruments
from exporter.storage.state import State, open_state
from tests.support.fakes import FakeClock

DUMP = Path(__file__).with_name("state-0.1.sql")

# Release 0.1 counted one answer a minute for 30 minutes, then it sent 20 requests and got a 429 with Retry-After: 30.
MINUTES = 30
SENT = 20
HOLD = 30.0

SETTINGS = Settings.model_validate(
    {
        "merchants": [
            {
                "id": "m",
                "api_key": "k",
                "mail_address": "a@example.com",
                "password": "p",
                "collect": [{"target": "play_count", "groups": ["all", "country"]}, {"target": "key_delivery_count"}],
                "media": [{"id": "media-1"}, {"id": "media-2"}],
            }
        ],
    }
)

# Each minute had 3 plays: 2 in JP, 0.5 in US, the others without a country. In one minute of media-2 the API returned
# 4e9 plays, which release 0.1 held. Counting started with the first key deliveries.
TOTALS = {
    (Target.PLAY_COUNT, Group.ALL): {"": 90.0},
    (Target.PLAY_COUNT, Group.COUNTRY): {"JP": 60.0, "US": 15.0},
    (Target.KEY_DELIVERY_COUNT, Group.ALL): {"": 29.0},
}
WITH_HELD_VALUE = Stream("m", "media-2", Target.PLAY_COUNT, Group.ALL)
HELD_MINUTE = minute_of(FakeClock().wall) + 22


@pytest.fixture
def clock() -> FakeClock:
    """The time when release 0.1 stopped."""
    clock = FakeClock()
    clock.advance(60 * MINUTES)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The state file."""
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(DUMP.read_text(encoding="utf-8"))
    return path


@pytest.fixture
def state(path: Path, clock: FakeClock) -> Iterator[State]:
    with contextlib.closing(open_state(path, clock.now, clock.monotonic)) as state:
        yield state


@pytest.fixture
def built(state: State, clock: FakeClock) -> Polling:
    return Polling(SETTINGS, state, Instruments(), clock)


def expected_totals(stream: Stream) -> dict[str, float]:
    if stream == WITH_HELD_VALUE:
        return {"": 87.0}
    return TOTALS[stream.target, stream.group]


def test_an_old_file_is_not_treated_as_damaged(
    path: Path, state: State, built: Polling, capsys: pytest.CaptureFixture[str]
) -> None:
    """The layout is the same, table definitions included: nothing is recovered, and nothing is logged."""
    built.snapshot()
    built.parts["m"].monitor.hours()
    assert not state.salvaged
    assert state.problem is None
    assert list(path.parent.glob("*.corrupt-*")) == []
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_each_older_layout_is_brought_to_todays(tmp_path: Path, clock: FakeClock) -> None:
    """A file of the layout before, without the tags, is extended and keeps what it has."""
    path = tmp_path / "layout-2.db"
    open_state(path, clock.now).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO media VALUES ('m', 'a', 'News', 'r', 'file', '', 0)")
        db.executescript("DROP TABLE media_tags; PRAGMA user_version = 2;")
    with contextlib.closing(open_state(path, clock.now)) as state, state.read() as db:
        assert not state.salvaged
        assert db.execute("SELECT name, tags FROM media LEFT JOIN media_tags USING (media_id)").fetchall() == [
            ("News", None)
        ]


def test_the_ledger_has_the_same_totals(built: Polling) -> None:
    """No counter resets; gauges, the held value and the names of the media are there, too."""
    merchant = built.snapshot().merchants["m"]
    assert {stream: {each.label: each.total for each in view.series} for stream, view in merchant.streams.items()} == {
        stream: expected_totals(stream) for stream in SETTINGS.merchants[0].streams()
    }
    through = minute_of(FakeClock().wall) + 27
    assert {view.through for view in merchant.streams.values()} == {through}
    assert [each.last for each in merchant.streams[WITH_HELD_VALUE].series] == [3.0]
    assert merchant.held_values == 1
    assert built.ledger.held(WITH_HELD_VALUE) == {HELD_MINUTE}
    assert {media_id: media.name for media_id, media in merchant.media.items()} == {
        "media-1": "Name of media-1",
        "media-2": "Name of media-2",
    }


def test_counting_continues(built: Polling, clock: FakeClock) -> None:
    """The next answer adds its new minute, and corrects the held value."""
    clock.advance(60)
    now = clock.now()
    asked = built.ledger.to_ask(WITH_HELD_VALUE, now)
    assert HELD_MINUTE in asked
    shown = MinuteRange(asked.first, minute_of(now) - 3)
    rows = {minute: {"": 3.0} for minute in range(shown.first, shown.last + 1)}
    built.ledger.enter(WITH_HELD_VALUE, asked, rows, now)
    merchant = built.snapshot().merchants["m"]
    assert [each.total for each in merchant.streams[WITH_HELD_VALUE].series] == [87.0 + 3.0 + 3.0]
    assert merchant.held_values == 0


def test_the_drop_monitor_loads_its_baselines(path: Path, state: State, built: Polling, clock: FakeClock) -> None:
    """The minutes are there. Where the history was fetched, so are the expected plays, and it is not fetched again."""
    monitor = built.parts["m"].monitor
    hours = monitor.hours()
    assert hours.keys() == {"", "media-1", "media-2"}
    assert hours[""].plays == hours["media-1"].plays == (3.0,) * 60
    assert [plays for plays in hours["media-2"].plays if plays != 3.0] == [None]
    assert hours["media-1"].expected == pytest.approx((3.0,) * 60)
    assert hours["media-2"].expected == (None,) * 60
    now = clock.now()
    for stream in SETTINGS.merchants[0].streams():
        asked = MinuteRange(minute_of(now) - 10, minute_of(now) - 3)
        rows = {minute: {"": 3.0} for minute in range(asked.first, asked.last + 1)}
        monitor.enter(stream, asked, rows, asked.last, now)
    monitor.save(now)
    with state.read() as db:
        assert db.execute("SELECT media_id FROM tracks WHERE past_known").fetchall() == [("media-1",)]


def test_the_request_budget_is_loaded(state: State, clock: FakeClock) -> None:
    """The hold of the 429 continues, half the budget is left, and the sent requests count."""
    clock.advance(10)
    # The machine was booted meanwhile, so the wall clock counts.
    budget = RequestBudget(state, "m", 45, clock, boot="this boot")
    assert budget.held
    assert budget.wait() == pytest.approx(HOLD - 10)
    assert budget.allowed == 45 / 2
    clock.advance(HOLD - 10)
    for _ in range(45 // 2 - SENT):
        budget.take().done()
    with pytest.raises(BudgetSpent):
        budget.take()


def test_the_plan_reads_the_rates(path: Path) -> None:
    """The command `plan` reads the plays per minute of each media."""
    assert read_rates(path) == {"m": pytest.approx({"": 3.0, "media-1": 3.0, "media-2": 3.0}, abs=0.2)}
