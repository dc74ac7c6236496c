"""Which minutes are complete, and which of them to ask for next. Pure."""

import math
from datetime import UTC, tzinfo

from exporter.config.settings import PollSettings
from exporter.localtime import local, midnight, whole_days, with_whole_repeat
from exporter.model import MINUTE, Minute, MinuteRange, minute_of


def whole_minutes(seconds: float) -> int:
    """Seconds as minutes, rounded up."""
    return math.ceil(seconds / MINUTE)


def ended_before(now: float, seconds: float) -> Minute:
    """The newest minute that ended at least `seconds` before `now` (Unix seconds)."""
    return minute_of(now - seconds) - 1


def newest_settled(now: float, horizon: Minute | None, poll: PollSettings) -> Minute:
    """The newest minute that counts as complete.

    It ended at least `settle` ago, and either the API has returned a row for it or for a later minute, or `max_lag` has
    passed.

    Args:
        now: Unix seconds.
        horizon: The newest minute for which the merchant has had a row.
        poll: The settings.
    """
    complete = ended_before(now, poll.settle)
    waited_for = ended_before(now, poll.max_lag)
    return min(complete, waited_for if horizon is None else max(horizon, waited_for))


def minutes_to_ask(
    through: Minute,
    seen: Minute,
    horizon: Minute | None,
    now: float,
    poll: PollSettings,
    longest: int | None = None,
    held: Minute | None = None,
    zone: tzinfo = UTC,
) -> MinuteRange:
    """The minutes to ask for next.

    The range starts one revision window before the newest counted minute. Two cases make it start earlier: minutes that
    were counted as empty because `max_lag` had passed (their rows may still come), and minutes with a held value.

    Args:
        through: The newest minute that the stream has counted.
        seen: The newest minute that it has counted because the API returned a row for it or for a later one.
        horizon: The newest minute for which the merchant has had a row.
        now: Unix seconds.
        poll: The settings.
        longest: The longest range that the API accepts (minutes), if known. The window then shrinks, so that each
            answer makes progress.
        held: The oldest minute with a held value.
        zone: The time zone of the API. Where the clocks are set back, both passes of the repeated hour are asked for,
            because a row does not say which pass it belongs to.
    """
    window = whole_minutes(poll.revision_window)
    newest = max(ended_before(now, poll.settle), through)
    earliest = newest - whole_minutes(poll.max_catch_up) + 1
    first = max(with_whole_repeat(min(through, seen) - window, zone), earliest)
    first = first if held is None else min(first, held)
    if longest is None or newest - first < longest:
        return MinuteRange(first, newest)
    # Minutes counted as empty for which rows have come since are read first.
    base = through if horizon is None or horizon <= seen else min(through, seen)
    # A range that ends with the newest minute makes progress, however early it starts.
    first = max(first, min(base - min(window, longest // 2), newest - longest + 1))
    return MinuteRange(first, min(newest, first + longest - 1))


def days_to_ask(
    through: Minute, now: float, zone: tzinfo, poll: PollSettings, held: Minute | None = None
) -> MinuteRange:
    """The local days to ask for next, as minutes: from the day before that of `through` to today.

    The range starts earlier if `held`, the oldest day with a held value, is earlier.
    """
    day_before = midnight(local(through + 1, zone).date(), zone) - 1
    first = max(day_before, minute_of(now - poll.max_catch_up))
    first = first if held is None else min(first, held)
    return whole_days(MinuteRange(first, minute_of(now)), zone)
