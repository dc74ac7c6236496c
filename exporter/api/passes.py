"""Assign rows to the first or second pass of local times that are repeated when clocks are set back. Pure.

Rows have only a local time. If the times of a sorted list go back, the second pass begins there; and the second row of
a local minute is of the second pass. Any other row is assigned to the first pass: the sum over both passes is right
either way, and the assignment does not depend on which minutes were requested.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import pairwise

from exporter.localtime import repeat_of
from exporter.model import Minute, MinuteRange


@dataclass(frozen=True, slots=True)
class RowDate:
    """When a row starts, as far as its local time says.

    Attributes:
        first: Its first minute; in a repeat, that of the first pass.
        second: That of the second pass; equal to `first` if there is none.
        labels: Its label values.
    """

    first: Minute
    second: Minute
    labels: Collection[str | None]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row's place in its list, its date, and the minutes in which it can start."""

    place: int
    date: RowDate
    span: MinuteRange


def assign_passes(dates: Sequence[RowDate], zone: tzinfo) -> list[Minute]:
    """The first minute of each row of a list.

    Args:
        dates: The dates of the rows, in the order of the list.
        zone: The zone of their local time.
    """
    rows: list[_Row] = []
    repeats: set[MinuteRange] = set()
    repeat: MinuteRange | None = None
    for place, date in enumerate(dates):
        span = MinuteRange(date.first, date.first)
        if date.first != date.second:
            repeat = repeat if repeat is not None and date.first in repeat else repeat_of(date.first, zone)
            span = repeat or span
            repeats.add(span)
        rows.append(_Row(place, date, span))
    second = {place for repeat in repeats for place in _second_pass(rows, repeat)}
    return [date.second if place in second else date.first for place, date in enumerate(dates)]


def _second_pass(rows: Sequence[_Row], repeat: MinuteRange) -> set[int]:
    """The places of the rows in a repeat's second pass."""
    found = _by_order(rows, repeat)
    if found is not None:
        return found
    # The list may be sorted by label value first.
    lists: dict[frozenset[str | None], list[_Row]] = {}
    for row in rows:
        lists.setdefault(frozenset(row.date.labels), []).append(row)
    if any(len(labels) > 1 for labels in lists):
        lists = {frozenset(): list(rows)}
    second: set[int] = set()
    for each in lists.values():
        found = _by_order(each, repeat)
        inside = [row for row in each if row.span == repeat]
        if found is None:
            found = _by_order(inside, repeat)
        second |= _second_of_minute(inside) if found is None else found
    return second


def _by_order(rows: Sequence[_Row], repeat: MinuteRange) -> set[int] | None:
    """The places of the rows in the second pass, or None if the list is not sorted by time."""
    forth = any(before.span.last < after.span.first for before, after in pairwise(rows))
    back = any(after.span.last < before.span.first for before, after in pairwise(rows))
    inside = [row for row in rows if row.span == repeat]
    if not back and (found := _oldest_first(inside)) is not None:
        return found
    return None if forth else _oldest_first(inside[::-1])


def _oldest_first(rows: Sequence[_Row]) -> set[int] | None:
    """The places of the rows in the second pass of a list with the oldest row first, or None if it is not sorted so."""
    begins = [place for place in range(1, len(rows)) if rows[place].date.first < rows[place - 1].date.first]
    if not begins:
        return _second_of_minute(rows)
    first, second = rows[: begins[0]], rows[begins[0] :]
    if len(begins) > 1 or _second_of_minute(first) or _second_of_minute(second):
        return None
    return {row.place for row in second}


def _second_of_minute(rows: Sequence[_Row]) -> set[int]:
    """The places of the rows that are the second of their local minute."""
    taken: dict[Minute, set[str | None]] = {}
    second = set()
    for row in rows:
        labels = taken.setdefault(row.date.first, set())
        if labels.isdisjoint(row.date.labels):
            labels.update(row.date.labels)
        else:
            second.add(row.place)
    return second
