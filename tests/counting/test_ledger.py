"""The ledger in its state file: one transaction for each answer, published after the commit."""

import sqlite3
from collections.abc import Callable

import pytest

from exporter.config.settings import Settings
from exporter.counting.ledger import KEEP_REMOVED, Ledger
from exporter.errors import StateWriteFailed
from exporter.model import Group, Minute, MinuteRange, Stream, Target, minute_of
from exporter.storage.state import State
from exporter.views import MerchantView, Series, SeriesView, StreamView
from tests.support.fakes import FakeClock

PLAYS = Stream("m", "a", Target.PLAY_COUNT, Group.ALL)
COUNTRIES = Stream("m", "a", Target.PLAY_COUNT, Group.COUNTRY)
DEVICES = Stream("m", "a", Target.DEVICE_COUNT, Group.ALL)
KEYS = Stream("m", "a", Target.KEY_DELIVERY_COUNT, Group.ALL)


def configured(*media: str, **poll: str | int) -> Settings:
    """Settings with one merchant and these media."""
    return Settings.model_validate(
        {
            "merchants": [
                {
                    "id": "m",
                    "api_key": "k",
                    "mail_address": "a@example.com",
                    "password": "p",
                    "collect": [
                        {"target": "play_count", "groups": ["all", "country"]},
                        {"target": "device_count"},
                        {"target": "key_delivery_count"},
                    ],
                    "media": [{"id": one} for one in media],
                }
            ],
            "poll": poll,
        }
    )


@pytest.fixture
def open_ledger(state: State, clock: FakeClock) -> Callable[..., Ledger]:
    def build(*media: str, **poll: str | int) -> Ledger:
        settings = configured(*(media or ("a",)), **poll)
        ledger = Ledger(state, settings, on_revision=lambda age: None)
        ledger.configure(settings, clock.now())
        return ledger

    return build


def newest(clock: FakeClock) -> Minute:
    """The newest minute that settle (2m) allows."""
    return minute_of(clock.now()) - 3


def view(ledger: Ledger, stream: Stream) -> StreamView:
    return ledger.snapshot.merchants["m"].streams[stream]


def answer(ledger: Ledger, clock: FakeClock, stream: Stream, rows: dict[Minute, dict[str, float]]) -> MinuteRange:
    asked = ledger.to_ask(stream, clock.now())
    ledger.enter(stream, asked, rows, clock.now())
    return asked


def pass_minute(ledger: Ledger, clock: FakeClock) -> Minute:
    """Let a minute pass in which zeros are exported; return the newest minute."""
    clock.advance(60)
    ledger.show_counted(clock.now())
    return newest(clock)


def test_each_view_is_given_out_before_it_is_published(state: State, clock: FakeClock) -> None:
    """At the start, after an answer and once a 0 has been exposed for a minute: what is published was seen before."""
    settings, seen = configured("a"), list[StreamView]()
    ledger = Ledger(state, settings, lambda _: None, seen.append)

    def unseen() -> list[StreamView]:
        published = ledger.snapshot.merchants["m"].streams.values()
        assert len(published) == 8
        return [each for each in published if not any(each is other for other in seen)]

    ledger.configure(settings, clock.now())
    assert unseen() == []
    clock.advance(600)
    answer(ledger, clock, COUNTRIES, {newest(clock): {"jp": 5.0}})
    assert (view(ledger, COUNTRIES).series[0].total, unseen()) == (0, [])
    pass_minute(ledger, clock)
    assert (view(ledger, COUNTRIES).series[0].total, unseen()) == (5, [])
    ledger.configure(settings, clock.now())
    assert unseen() == []


def test_a_stream_begins_at_zero(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """Before the first answer a counter is 0, and there are neither gauges nor a timestamp."""
    ledger = open_ledger()
    assert view(ledger, PLAYS) == StreamView(PLAYS, None, Series.of([SeriesView("", 0.0, None)]))
    assert view(ledger, COUNTRIES).series == ()


def test_a_new_counter_exports_its_zero_for_a_minute(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """Plays of a new label value are counted at once, and exported after the 0 was exported for a minute."""
    ledger = open_ledger()
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, COUNTRIES, {minute: {"jp": 5}})
    assert view(ledger, COUNTRIES).series == (SeriesView("jp", 0.0, 5.0),)
    clock.advance(59)
    ledger.show_counted(clock.now())
    assert view(ledger, COUNTRIES).series[0].total == 0
    clock.advance(1)
    ledger.show_counted(clock.now())
    assert view(ledger, COUNTRIES).series[0].total == 5


def test_an_exported_counter_is_not_zero_after_a_restart(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """A restart exports the same values; a counter that was not exported yet has its minute of 0 again."""
    ledger = open_ledger()
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, PLAYS, {minute: {"": 7}})
    answer(ledger, clock, COUNTRIES, {minute: {"jp": 7}})
    again = open_ledger()
    assert view(again, PLAYS).series[0].total == 7
    assert view(again, COUNTRIES).series[0].total == 0
    pass_minute(again, clock)
    assert view(again, COUNTRIES).series[0].total == 7


def test_a_restart_catches_up(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """The first request after an outage is for all minutes since and a revision window more, and counts them once."""
    ledger = open_ledger()
    first = pass_minute(ledger, clock)
    answer(ledger, clock, PLAYS, {first: {"": 7}})
    clock.advance(5 * 3600)
    again = open_ledger()
    rows = {minute: {"": 1.0} for minute in range(first, newest(clock) + 1)}
    asked = answer(again, clock, PLAYS, rows)
    assert (asked.first, asked.last) == (first - 30, newest(clock))
    # The first minute is revised from 7 to 1: the following 300 first pay off 6.
    assert view(again, PLAYS).series[0].total == 7 + 300 - 6
    assert again.snapshot.merchants["m"].lost_minutes == 0


def test_minutes_too_old_to_catch_up_are_lost(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """Minutes beyond max_catch_up are counted as lost, and stay counted after a restart."""
    ledger = open_ledger()
    first = pass_minute(ledger, clock)
    answer(ledger, clock, PLAYS, {first: {"": 7}})
    clock.advance(26 * 3600)
    ledger = open_ledger()
    answer(ledger, clock, PLAYS, {newest(clock): {"": 1}})
    assert ledger.snapshot.merchants["m"].lost_minutes == 120
    assert open_ledger().snapshot.merchants["m"].lost_minutes == 120


def test_a_failed_write_exports_and_counts_nothing(
    open_ledger: Callable[..., Ledger], clock: FakeClock, state: State
) -> None:
    """On a full disk nothing changes; the same answer is counted once the disk has space."""
    ledger = open_ledger()
    minute = pass_minute(ledger, clock)
    before = ledger.snapshot
    rows: dict[Minute, dict[str, float]] = {minute - n: {f"{m:0500}": 1.0 for m in range(50)} for n in range(30)}
    with state.read() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateWriteFailed):
        answer(ledger, clock, COUNTRIES, rows)
    assert ledger.snapshot is before
    with state.read() as db:
        db.execute("PRAGMA max_page_count = 1000000")
    answer(ledger, clock, COUNTRIES, rows)
    pass_minute(ledger, clock)
    assert sum(series.total or 0 for series in view(ledger, COUNTRIES).series) == 50


def test_gauges_of_values_that_do_not_add_up(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """Devices have no counter; their gauge is the newest settled minute's, 0 without a row."""
    ledger = open_ledger()
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, DEVICES, {minute: {"": 5}})
    assert view(ledger, DEVICES).series == (SeriesView("", None, 5.0),)
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, PLAYS, {minute: {"": 1}})
    answer(ledger, clock, DEVICES, {})
    assert view(ledger, DEVICES) == StreamView(DEVICES, minute, Series.of([SeriesView("", None, 0.0)]))


def test_key_deliveries_are_counted_by_day(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """Key deliveries have a counter and no gauge of a minute; counting starts with the first answer."""
    ledger = open_ledger()
    today = answer(ledger, clock, KEYS, {}).last + 1 - 1440
    pass_minute(ledger, clock)
    answer(ledger, clock, KEYS, {today: {"": 12}})
    assert view(ledger, KEYS).series == (SeriesView("", 12.0, None),)


def test_a_media_that_comes_back_continues(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """A media that leaves the configuration for up to 7 days keeps its counters; later it begins at 0."""
    ledger = open_ledger("a", "b")
    answer(ledger, clock, PLAYS, {pass_minute(ledger, clock): {"": 7}})
    assert PLAYS not in open_ledger("b").snapshot.merchants["m"].streams
    clock.advance(3600)
    assert view(open_ledger("a", "b"), PLAYS).series[0].total == 7
    open_ledger("b")
    clock.advance(KEEP_REMOVED + 60)
    open_ledger("b")
    assert view(open_ledger("a", "b"), PLAYS).series[0].total == 0


def test_the_working_range_is_remembered_for_a_day(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """A limit of the API is kept across restarts, and tested again after a day."""
    ledger = open_ledger()
    clock.advance(10 * 3600)
    ledger.believe_range("m", 100, clock.now())
    assert len(open_ledger().to_ask(PLAYS, clock.now())) == 100
    clock.advance(24 * 3600)
    assert len(open_ledger().to_ask(PLAYS, clock.now())) == 1440


def test_the_horizon_is_one_for_the_merchant(open_ledger: Callable[..., Ledger], clock: FakeClock) -> None:
    """A row in any stream's answer settles the minutes of all; a row that was not requested settles nothing."""
    ledger = open_ledger()
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, COUNTRIES, {minute - 1: {"jp": 1}, minute + 1: {"jp": 1}})
    assert ledger.snapshot.merchants["m"].horizon == minute - 1
    assert ledger.settled("m", clock.now()) == minute - 1
    answer(ledger, clock, DEVICES, {})
    assert ledger.snapshot.merchants["m"].horizon == minute - 1


def test_revisions_are_counted_and_reported(state: State, clock: FakeClock) -> None:
    """Each revised value is counted by direction, kept across restarts, and reported with its age."""
    ages: list[float] = []
    settings = configured("a")
    ledger = Ledger(state, settings, ages.append)
    ledger.configure(settings, clock.now())
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, COUNTRIES, {minute: {"jp": 5, "us": 1}})
    answer(ledger, clock, COUNTRIES, {minute: {"jp": 4, "us": 3}})
    again = Ledger(state, settings, ages.append)
    again.configure(settings, clock.now())
    merchant = again.snapshot.merchants["m"]
    assert (merchant.revisions_up, merchant.revisions_down) == (1, 1)
    assert ages == [clock.now() - (minute + 1) * 60] * 2


def test_more_label_values_than_the_limit_are_one_warning(
    open_ledger: Callable[..., Ledger], clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label values beyond the limit are counted as `other`, with one warning; the limit is the same after a restart."""
    ledger = open_ledger(max_label_values=2)
    minute = pass_minute(ledger, clock)
    answer(ledger, clock, COUNTRIES, {minute: {"jp": 1, "us": 2, "fr": 3}})
    answer(ledger, clock, COUNTRIES, {minute: {"jp": 1, "us": 2, "fr": 3, "de": 4}})
    again = open_ledger(max_label_values=2)
    answer(again, clock, COUNTRIES, {minute: {"de": 4, "fr": 3, "us": 2, "jp": 1}})
    pass_minute(again, clock)
    assert [(series.label, series.total) for series in view(again, COUNTRIES).series] == [
        ("jp", 1),
        ("us", 2),
        ("other", 7),
    ]


def test_the_state_of_a_stream_stays_small(open_ledger: Callable[..., Ledger], clock: FakeClock, state: State) -> None:
    """Only values that can still be revised are kept."""
    ledger = open_ledger()
    for _ in range(100):
        minute = pass_minute(ledger, clock)
        answer(ledger, clock, PLAYS, {minute - n: {"": 1} for n in range(40)})
    with state.read() as db:
        assert slots(db) == 31


def slots(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM slots").fetchone()[0])


def test_the_first_snapshot_has_all_merchants(state: State, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the streams are loaded again, a scrape sees the previous merchants; then all new ones at once."""
    account = {"api_key": "k", "mail_address": "a@example.com", "password": "p"}
    merchants = [{"id": merchant_id, **account} for merchant_id in ("m", "n")]
    settings = Settings.model_validate({"merchants": merchants})
    ledger = Ledger(state, settings, lambda age: None)
    seen: list[set[str]] = []
    real = Ledger._view

    def view_of(self: Ledger, merchant_id: str) -> MerchantView:
        seen.append(set(self.snapshot.merchants))
        return real(self, merchant_id)

    monkeypatch.setattr(Ledger, "_view", view_of)
    ledger.configure(settings, clock.now())
    ledger.configure(settings, clock.now())
    assert seen == [set(), set(), {"m", "n"}, {"m", "n"}]
    assert set(ledger.snapshot.merchants) == {"m", "n"}
