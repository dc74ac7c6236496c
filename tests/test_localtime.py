"""Local time around changes of the clocks, and an API that has only local time."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from exporter.localtime import local, midnight, repeat_of, whole_days, with_whole_repeat, without_doubt
from exporter.model import DAY_MINUTES, Minute, MinuteRange, minute_of
from tests.support.clock_changes import CHANGES, REPEATS, utc

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(("name", "change", "length"), REPEATS)
def test_a_repeat_is_both_passes_of_a_local_time(name: str, change: Minute, length: int) -> None:
    """Every minute of either pass gives both passes, and the minutes around them occur once."""
    zone, repeat = ZoneInfo(name), MinuteRange(change - length, change + length - 1)
    for minute in range(repeat.first - 180, repeat.last + 181):
        assert repeat_of(minute, zone) == (repeat if minute in repeat else None)
        assert with_whole_repeat(minute, zone) == (repeat.first if minute in repeat else minute)


@pytest.mark.parametrize("name", ["Asia/Tokyo", "UTC", "Asia/Kolkata"])
def test_without_daylight_saving_no_local_time_repeats(name: str) -> None:
    """If clocks never go back, a range is sent unchanged."""
    start = utc(2026, 1, 1)
    for minute in range(start, start + 370 * DAY_MINUTES, 45):
        assert repeat_of(minute, ZoneInfo(name)) is None


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_sent_range_is_unambiguous(name: str, change: Minute) -> None:
    """Every range near a change is sent with ends that occur once in local time, in order, around the range."""
    zone = ZoneInfo(name)
    for first in range(change - 150, change + 151, 7):
        for length in (1, 2, 31, 60, 90, 200):
            requested = MinuteRange(first, first + length - 1)
            for sent in (without_doubt(requested, zone), without_doubt(whole_days(requested, zone), zone)):
                assert sent.first <= requested.first
                assert requested.last <= sent.last
                ends = [local(minute, zone).replace(tzinfo=None) for minute in (sent.first, sent.last)]
                assert ends == sorted(ends)
                for minute, end in zip((sent.first, sent.last), ends, strict=True):
                    read = {minute_of(end.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1)}
                    assert read == {minute}


def test_a_range_without_a_repeat_at_its_ends_is_sent_unchanged() -> None:
    """Only a range that begins or ends in a repeat is extended; a repeat inside a range does not matter."""
    change = REPEATS[0][1]
    for requested in (MinuteRange(change - 61, change + 60), MinuteRange(change - 500, change - 61)):
        assert without_doubt(requested, NEW_YORK) == requested
    assert without_doubt(MinuteRange(change - 10, change - 5), NEW_YORK) == MinuteRange(change - 61, change + 60)


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("Asia/Tokyo", (2026, 3, 29), 24),
        ("Asia/Beirut", (2026, 3, 29), 23),
        ("Asia/Beirut", (2026, 10, 24), 25),
        ("Atlantic/Azores", (2026, 10, 25), 25),
        ("Australia/Lord_Howe", (2026, 4, 5), 24.5),
    ],
)
def test_days_are_complete(name: str, day: tuple[int, int, int], hours: float) -> None:
    """A local day has all of its minutes, however many, and they are those with its date."""
    zone = ZoneInfo(name)
    noon = minute_of(datetime(*day, 12, tzinfo=zone).timestamp())
    whole = whole_days(MinuteRange(noon, noon + 1), zone)
    assert whole.first == midnight(date(*day), zone)
    assert len(whole) == 60 * hours
    dates = {local(minute, zone).date() for minute in range(whole.first, whole.last + 1)}
    assert dates == {date(*day)}
    assert local(whole.first - 1, zone).date() == date(*day) - timedelta(days=1)
    assert local(whole.last + 1, zone).date() == date(*day) + timedelta(days=1)
