"""Which minutes are complete, and which are requested next."""

from datetime import timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.settings import PollSettings
from exporter.counting.windows import days_to_ask, ended_before, minutes_to_ask, newest_settled, whole_minutes
from exporter.model import DAY_MINUTES, Minute, end_of, start_of

POLL = PollSettings()
NOON = 29_000_000  # a minute


def after(minute: Minute, seconds: float = 0) -> float:
    """The time, a number of seconds after the end of a minute."""
    return end_of(minute) + seconds


@pytest.mark.parametrize(
    ("horizon", "seconds", "settled"),
    [
        (None, 120, NOON - 8),  # no row yet: only max_lag settles
        (NOON, 120, NOON),  # a row of the minute, and settle has passed
        (NOON, 119.9, NOON - 1),  # settle has not passed
        (NOON - 3, 120, NOON - 3),  # the API is late: later minutes are not counted as empty
        (NOON - 60, 120, NOON - 8),  # until max_lag has passed
        (NOON + 5, 120, NOON),  # a newer row settles older minutes
    ],
)
def test_a_minute_is_settled_by_a_row_or_by_max_lag(horizon: Minute | None, seconds: float, settled: Minute) -> None:
    """A minute is settled when `settle` has passed and its row or a later one was seen, or when
    `max_lag` has passed.
    """
    assert newest_settled(after(NOON, seconds), horizon, POLL) == settled


@pytest.mark.parametrize(
    ("through", "seen", "longest", "expected"),
    [
        (NOON - 1, NOON - 1, None, (NOON - 31, NOON)),  # a revision window back
        (NOON - 1, NOON - 100, None, (NOON - 130, NOON)),  # rows have stopped: from where they may still come
        (NOON - 600, NOON - 600, None, (NOON - 630, NOON)),  # catch-up in one request
        (NOON - 9999, NOON - 9999, None, (NOON - DAY_MINUTES + 1, NOON)),  # at most max_catch_up
        (NOON - 600, NOON - 600, 100, (NOON - 630, NOON - 531)),  # in pieces, if the API refuses more
        (NOON - 600, NOON - 600, 40, (NOON - 620, NOON - 581)),  # the window shrinks, so that there is progress
        (NOON - 1, NOON - 600, 100, (NOON - 630, NOON - 531)),  # late rows, in pieces, too
        (NOON + 5, NOON + 5, None, (NOON - 25, NOON + 5)),  # the clock went back
    ],
)
def test_the_requested_range(
    through: Minute, seen: Minute, longest: int | None, expected: tuple[Minute, Minute]
) -> None:
    """A request reaches from a revision window before the newest counted minute to the newest complete minute."""
    requested = minutes_to_ask(through, seen, NOON, after(NOON, 120), POLL, longest)
    assert (requested.first, requested.last) == expected


def test_days_are_requested_from_yesterday_by_local_time() -> None:
    """The range by day begins at local midnight of the day before the newest counted one, and ends with today."""
    zone = timezone(timedelta(hours=9))
    midnight = NOON - (NOON + 540) % DAY_MINUTES
    requested = days_to_ask(midnight + 30, start_of(midnight + 100), zone, POLL)
    assert (requested.first, requested.last) == (midnight - DAY_MINUTES, midnight + DAY_MINUTES - 1)


@given(st.floats(0, 4e9), st.floats(0, 3600))
def test_a_complete_minute_has_ended_long_enough_ago(now: float, seconds: float) -> None:
    """The newest complete minute ended at least that long ago, and the next one did not."""
    minute = ended_before(now, seconds)
    assert end_of(minute) <= now - seconds < end_of(minute + 1)


def test_a_part_of_a_minute_is_a_whole_one() -> None:
    """A window of 90 s needs two minutes."""
    assert [whole_minutes(seconds) for seconds in (60, 61, 90, 120)] == [1, 2, 2, 2]
