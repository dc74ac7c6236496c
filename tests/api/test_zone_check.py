"""Whether api.timezone fits: what single answers show."""

from zoneinfo import ZoneInfo

import pytest

from exporter.api.zone_check import CONFIRM, Look, ZoneFinding, judge_zone, look_at, zone_error
from exporter.model import Minute, Rows, minute_of

NOW = 1_780_000_000.0
TOKYO = ZoneInfo("Asia/Tokyo")
HOUR = 3600.0


def look(age: float, at: float = NOW) -> Look:
    """An answer whose newest row with plays ended so many seconds ago."""
    return Look(at, minute_of(at - age) - 1)


def judged(*looks: Look, zone: ZoneInfo = TOKYO) -> ZoneFinding:
    finding = ZoneFinding()
    for each in looks:
        finding = judge_zone(finding, each, zone)
    return finding


@pytest.mark.parametrize("hours", [0.5, 1, 5.5, 9, 14, 17, 25])
@pytest.mark.parametrize("lag", [0, 60, 240])
def test_rows_in_the_future_are_said_at_once(hours: float, lag: float) -> None:
    """One answer is enough, and the difference of the zones is rounded up to half an hour."""
    assert judged(look(lag - hours * HOUR)).offset == hours * HOUR


@pytest.mark.parametrize("age", [-240, 0, 60, 600, 1700])
def test_usual_rows_fit(age: float) -> None:
    """Rows of this half hour fit; a few minutes in the future are the clock's."""
    assert judged(look(age)).offset == 0.0


@pytest.mark.parametrize("hours", [1, 5.5, 9, 14, 17])
def test_old_rows_that_move_on_are_the_zones(hours: float) -> None:
    """One answer with old rows is not enough. A later one with the same age is."""
    first, second = look(hours * HOUR + 120), look(hours * HOUR + 120, NOW + 300)
    assert judged(first).offset is None
    assert judged(first, look(hours * HOUR + 120, NOW + CONFIRM - 60)).offset is None
    assert judged(first, second).offset == -hours * HOUR


def test_old_rows_that_stand_still_are_not_the_zones() -> None:
    """A quiet merchant, or an API without new rows: the age grows, through every whole hour, and nothing is said."""
    looks = [Look(NOW + seconds, minute_of(NOW) - 1) for seconds in range(0, 15 * 3600, 300)]
    finding = ZoneFinding()
    for each in looks:
        finding = judge_zone(finding, each, TOKYO)
        assert not finding.wrong


def test_old_rows_of_another_age_are_late() -> None:
    """Rows that move on 1h20m late, or 2h45m, are an API that is late: zones differ by whole half hours."""
    for age in (80 * 60, 165 * 60, 35 * 60):
        assert not judged(look(age), look(age, NOW + 300), look(age, NOW + 600)).wrong


def test_old_rows_after_a_fit_are_late() -> None:
    """Once the zone has been seen to fit, rows that become hours late are the API's delay."""
    assert judged(look(120), look(3 * HOUR + 120), look(3 * HOUR + 120, NOW + 600)).offset == 0.0


def test_the_error_clears_when_rows_are_usual_again() -> None:
    """Both errors end with an answer that fits. An answer without rows changes nothing."""
    ahead = judged(look(-9 * HOUR))
    assert judge_zone(ahead, Look(NOW, None), TOKYO) == ahead
    later = judge_zone(ahead, look(-9 * HOUR, NOW + 600), TOKYO)
    assert (ahead.since, later.since) == (NOW, NOW)
    assert judge_zone(ahead, look(120), TOKYO) == ZoneFinding(0.0, local_offset=9 * HOUR)
    old = judged(look(9 * HOUR + 60), look(9 * HOUR + 60, NOW + 300))
    assert old.wrong
    assert judge_zone(old, look(60, NOW + 600), TOKYO).offset == 0.0


@pytest.mark.parametrize("month", [3, 11])
def test_after_a_change_of_the_clocks_nothing_is_concluded(month: int) -> None:
    """In an hour that is there twice, a row can look an hour old, or be in the future."""
    zone = ZoneInfo("America/New_York")
    # 2026-03-08 07:00 UTC and 2026-11-01 06:00 UTC.
    change = {3: 1_772_953_200.0, 11: 1_793_512_800.0}[month]
    known = judged(look(60, change - HOUR), zone=zone)
    for seconds in (0, HOUR, 2 * HOUR):
        assert judge_zone(known, look(-HOUR, change + seconds), zone) == known
        assert judge_zone(known, look(HOUR + 60, change + seconds), zone) == known
    assert judge_zone(known, look(60, change + 4 * HOUR), zone).offset == 0.0


def test_a_zone_with_summer_time_for_an_api_without() -> None:
    """The zone fits until the clocks are set forward. From then on rows look an hour old, and that is said."""
    zone, change = ZoneInfo("America/New_York"), 1_772_953_200.0
    known = judged(look(60, change - HOUR), zone=zone)
    later = change + 5 * HOUR
    for seconds in (0, 300):
        known = judge_zone(known, look(HOUR + 60, later + seconds), zone)
    assert known.offset == -HOUR


def test_rows_without_plays_show_nothing() -> None:
    """An API may answer with a 0 for every minute of the day, and with values that cannot be used."""
    minute: Minute = minute_of(NOW)
    rows: Rows = {minute - 3: {"": 4.0}, minute + 500: {"": 0.0}, minute + 501: {}, minute + 502: {"": None}}
    assert look_at(rows, NOW) == Look(NOW, minute - 3)
    assert look_at({}, NOW) == Look(NOW, None)


def test_the_message_names_the_zone_and_the_fix() -> None:
    """It says how far the rows are off, and which offset the right zone has now."""
    assert zone_error(None, NOW, TOKYO) == zone_error(0.0, NOW, TOKYO) == ""
    assert zone_error(9 * HOUR, NOW, ZoneInfo("UTC")) == (
        "The time zone is wrong: by api.timezone (UTC) the newest plays of the API are 9h in the future, so the "
        "counters are wrong. Set api.timezone to the zone of the API, which seems to be UTC+09:00 now, and reload the "
        "configuration."
    )
    assert "14h old" in zone_error(-14 * HOUR, NOW, TOKYO)
    assert "UTC-05:00" in zone_error(-14 * HOUR, NOW, TOKYO)
