"""Local time around a change of the clocks. Pure.

When clocks are set back, an hour (in some zones half of one) of local time is there twice. It has a first and a second
pass here, and both together are a *repeat*.
"""

from bisect import bisect_left
from datetime import date, datetime, time, timedelta, tzinfo

from exporter.model import Minute, MinuteRange, minute_of, start_of


def local(minute: Minute, zone: tzinfo) -> datetime:
    """The local time at which a minute starts."""
    return datetime.fromtimestamp(start_of(minute), zone)


def midnight(day: date, zone: tzinfo) -> Minute:
    """The first minute of a local day, also where its midnight is there twice or not at all."""
    return minute_of(datetime.combine(day, time(), zone).timestamp())


def repeat_of(minute: Minute, zone: tzinfo) -> MinuteRange | None:
    """Both passes of the local time that is there twice, if a minute lies in one of them."""
    moment = local(minute, zone)
    other = minute_of(moment.replace(fold=1 - moment.fold).timestamp())
    first, length = min(minute, other), abs(other - minute)
    if not length:
        return None
    before = local(first, zone).utcoffset()
    later = range(first + 1, first + length + 1)
    change = later[bisect_left(later, 1, key=lambda each: int(local(each, zone).utcoffset() != before))]
    return MinuteRange(change - length, change + length - 1)


def with_whole_repeat(minute: Minute, zone: tzinfo) -> Minute:
    """Where a range that begins at a minute has to begin so that it holds no part of a repeat without the rest."""
    repeat = repeat_of(minute, zone)
    return minute if repeat is None else repeat.first


def whole_days(minutes: MinuteRange, zone: tzinfo) -> MinuteRange:
    """The local days that hold any of the minutes, from the first minute of the first to the last one of the last."""
    first, last = local(minutes.first, zone).date(), local(minutes.last, zone).date()
    return MinuteRange(midnight(first, zone), midnight(last + timedelta(days=1), zone) - 1)


def without_doubt(minutes: MinuteRange, zone: tzinfo) -> MinuteRange:
    """A range made wider, so that both its ends have a local time that is there once: a peer cannot mistake it."""
    first, last = repeat_of(minutes.first, zone), repeat_of(minutes.last, zone)
    return MinuteRange(
        minutes.first if first is None else first.first - 1, minutes.last if last is None else last.last + 1
    )
