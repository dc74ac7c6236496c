"""Which pass of a local time that is there twice each row of an answer is of. Pure.

Rows tell their local time only. Where the times of a list that is in order go back, the second pass has begun; and the
second row of a local minute is the later one. What neither of them tells is taken for the first pass: the sum over both
passes is right either way, and what a row is taken for does not depend on which minutes were asked for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import pairwise

from exporter.localtime import repeat_of
from exporter.model import Minute, MinuteRange


@dataclass(frozen=True, slots=True)
class Dated:
    """When a row is of, as far as it tells.

    Attributes:
        first: The minute at which it starts; in a repeat, that of the first pass.
        second: The minute of the second pass; the same where there is none.
        labels: The label values that it has.
    """

    first: Minute
    second: Minute
    labels: Collection[str | None]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row in its list: its place, what it tells, and between which minutes it is of."""

    place: int
    told: Dated
    span: MinuteRange


def placed(told: Sequence[Dated], zone: tzinfo) -> list[Minute]:
    """The minute at which each row of a list starts.

    Args:
        told: What the rows tell, in the order of the list.
        zone: The zone of their local time.
    """
    rows: list[_Row] = []
    repeats: set[MinuteRange] = set()
    repeat: MinuteRange | None = None
    for place, each in enumerate(told):
        span = MinuteRange(each.first, each.first)
        if each.first != each.second:
            repeat = repeat if repeat is not None and each.first in repeat else repeat_of(each.first, zone)
            span = repeat or span
            repeats.add(span)
        rows.append(_Row(place, each, span))
    second = {place for repeat in repeats for place in _second_pass(rows, repeat)}
    return [each.second if place in second else each.first for place, each in enumerate(told)]


def _second_pass(rows: Sequence[_Row], repeat: MinuteRange) -> set[int]:
    """The places of the rows that are of a repeat's second pass."""
    found = _by_order(rows, repeat)
    if found is not None:
        return found
    # Perhaps all rows of one label value come before those of the next.
    lists: dict[frozenset[str | None], list[_Row]] = {}
    for row in rows:
        lists.setdefault(frozenset(row.told.labels), []).append(row)
    if any(len(labels) > 1 for labels in lists):
        lists = {frozenset(): list(rows)}
    second: set[int] = set()
    for each in lists.values():
        found = _by_order(each, repeat)
        inside = [row for row in each if row.span == repeat]
        if found is None:
            found = _by_order(inside, repeat)
        second |= _by_turns(inside) if found is None else found
    return second


def _by_order(rows: Sequence[_Row], repeat: MinuteRange) -> set[int] | None:
    """The places of the rows of the second pass, or None where the list is in no order."""
    forth = any(before.span.last < after.span.first for before, after in pairwise(rows))
    back = any(after.span.last < before.span.first for before, after in pairwise(rows))
    inside = [row for row in rows if row.span == repeat]
    if not back and (found := _oldest_first(inside)) is not None:
        return found
    return None if forth else _oldest_first(inside[::-1])


def _oldest_first(rows: Sequence[_Row]) -> set[int] | None:
    """The places of the rows of the second pass in a list that has the oldest first, or None where it does not."""
    begins = [place for place in range(1, len(rows)) if rows[place].told.first < rows[place - 1].told.first]
    if not begins:
        return _by_turns(rows)
    first, second = rows[: begins[0]], rows[begins[0] :]
    if len(begins) > 1 or _by_turns(first) or _by_turns(second):
        return None
    return {row.place for row in second}


def _by_turns(rows: Sequence[_Row]) -> set[int]:
    """The places of the rows that are the second of their local minute."""
    taken: dict[Minute, set[str | None]] = {}
    second = set()
    for row in rows:
        labels = taken.setdefault(row.told.first, set())
        if labels.isdisjoint(row.told.labels):
            labels.update(row.told.labels)
        else:
            second.add(row.place)
    return second
