"""The visible rows of a stream at an instant: by minute, hour, day or month."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from operator import itemgetter

from exporter.model import Group, Minute, MinuteRange, Stream, Target, end_of, minute_of, start_of
from exporter.simulator.arithmetic import Values, combine_max, combine_sum, ratio, unique_over_time
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import LABELS, World


class Interval(StrEnum):
    """The length of a row; the value is the API's own word."""

    MONTH = "month"
    DAY = "day"
    HOUR = "hour"
    MINUTE = "minute"


DATE_FORMATS = {
    Interval.MONTH: "%Y/%m",
    Interval.DAY: "%Y/%m/%d",
    Interval.HOUR: "%Y/%m/%d %H",
    Interval.MINUTE: "%Y/%m/%d %H:%M",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an answer.

    Attributes:
        date: The start of the row in local time, as the API writes it.
        values: One value for each label of the group.
    """

    date: str
    values: Values


# A part of a row that covers more than a minute: the date of the row, and the sum and the largest of the minutes in it,
# label by label.
Piece = tuple[str, Values, Values]


class Reader:
    """Reads the visible rows of a world."""

    def __init__(self, world: World, switch: FaultSwitch) -> None:
        self._world = world
        self._switch = switch

    def rows(self, stream: Stream, interval: Interval, asked: MinuteRange, now: float) -> list[Row]:
        """The rows of a stream at an instant (Unix seconds), oldest first.

        A longer interval's row is made of those of its minutes that were asked for and are visible. Raises
        KeyError for an unknown media.
        """
        stalled_since = self._switch.now.stalled_since
        at = now if stalled_since is None else min(now, stalled_since)
        until_now = MinuteRange(asked.first, min(asked.last, minute_of(at)))
        if interval is Interval.MINUTE:
            return [
                Row(self._date(minute, interval), values) for minute, values in self._visible(stream, until_now, at)
            ]
        if stream.target is not Target.AVERAGE_PLAY_TIME:
            return self._long_rows(stream, interval, until_now, at)
        seconds = self._long_rows(replace(stream, target=Target.PLAY_TIME), interval, until_now, at)
        plays = self._long_rows(replace(stream, target=Target.PLAY_COUNT), interval, until_now, at)
        return [Row(time.date, ratio(time.values, count.values)) for time, count in zip(seconds, plays, strict=True)]

    def _visible(self, stream: Stream, asked: MinuteRange, now: float) -> Iterator[tuple[Minute, Values]]:
        """The minutes with a row, and their values."""
        for minute in range(asked.first, asked.last + 1):
            revision = self._switch.revision(stream.merchant_id, minute, now)
            if revision is not None:
                yield minute, self._world.hour(stream, minute // 60, revision)[minute % 60]

    def _long_rows(self, stream: Stream, interval: Interval, asked: MinuteRange, now: float) -> list[Row]:
        """The rows by hour, day or month."""
        rows = []
        for date, pieces in groupby(self._pieces(stream, interval, asked, now), itemgetter(0)):
            _, sums_of_parts, peaks_of_parts = zip(*pieces, strict=True)
            sums, peaks = combine_sum(sums_of_parts), combine_max(peaks_of_parts)
            rows.append(Row(date, sums if stream.target.summable else unique_over_time(sums, peaks)))
        return rows

    def _pieces(self, stream: Stream, interval: Interval, asked: MinuteRange, now: float) -> Iterator[Piece]:
        """Whole hours where possible, as they are cached, else quarters of an hour."""
        for hour in range(asked.first // 60, asked.last // 60 + 1):
            whole = MinuteRange(hour * 60, hour * 60 + 59)
            date = self._date(whole.first, interval)
            if (
                whole.first in asked
                and whole.last in asked
                and self._switch.final_by(end_of(whole.last)) <= now
                and date == self._date(whole.last, interval)
            ):
                yield date, *self._world.hour_sum(stream, hour)
            else:
                part = MinuteRange(max(whole.first, asked.first), min(whole.last, asked.last))
                yield from self._quarters(interval, self._visible(stream, part, now))

    def _quarters(self, interval: Interval, visible: Iterable[tuple[Minute, Values]]) -> Iterator[Piece]:
        # In every time zone, a local hour starts at a multiple of 15 UTC minutes.
        for quarter, pairs in groupby(visible, lambda pair: pair[0] // 15):
            values = [value for _, value in pairs]
            yield self._date(quarter * 15, interval), combine_sum(values), combine_max(values)

    def _date(self, minute: Minute, interval: Interval) -> str:
        return datetime.fromtimestamp(start_of(minute), self._world.zone).strftime(DATE_FORMATS[interval])


def labels(group: Group) -> tuple[str, ...]:
    """The label values of a group as the API writes them; `all` names itself."""
    return ("all",) if group is Group.ALL else tuple(LABELS[group])
