"""Assign rows to the first or second pass of local times that are repeated when clocks are set back. Pure.

Rows have only a local time. If the times of a sorted list go back, the second pass begins there; and the second row of
a local minute is of the second pass. Any other row is assigned to the first pass: the sum over both passes is right
either way, and the assignment does not depend on which minutes were requested.
"""

from collections.abc import Sequence
from itertools import pairwise

from exporter.api.row_values import Row
from exporter.model import Minute, MinuteRange


def assign_passes(rows: Sequence[Row]) -> list[Minute]:
    """The first minute of each row of a list."""
    second = set[int]()
    for repeat in {row.span for row in rows if row.first != row.second}:
        second |= _second_pass(rows, repeat)
    return [row.second if row.place in second else row.first for row in rows]


def _second_pass(rows: Sequence[Row], repeat: MinuteRange) -> set[int]:
    """The places of the rows in a repeat's second pass."""
    found = _by_order(rows, repeat)
    if found is not None:
        return found
    # The list may be sorted by label value first.
    lists: dict[frozenset[str | None], list[Row]] = {}
    for row in rows:
        lists.setdefault(frozenset(row.values), []).append(row)
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


def _by_order(rows: Sequence[Row], repeat: MinuteRange) -> set[int] | None:
    """The places of the rows in the second pass, or None if the list is not sorted by time."""
    forth = any(before.span.last < after.span.first for before, after in pairwise(rows))
    back = any(after.span.last < before.span.first for before, after in pairwise(rows))
    inside = [row for row in rows if row.span == repeat]
    if not back and (found := _oldest_first(inside)) is not None:
        return found
    return None if forth else _oldest_first(inside[::-1])


def _oldest_first(rows: Sequence[Row]) -> set[int] | None:
    """The places of the rows in the second pass of a list with the oldest row first, or None if it is not sorted so."""
    begins = [place for place in range(1, len(rows)) if rows[place].first < rows[place - 1].first]
    if not begins:
        return _second_of_minute(rows)
    first, second = rows[: begins[0]], rows[begins[0] :]
    if len(begins) > 1 or _second_of_minute(first) or _second_of_minute(second):
        return None
    return {row.place for row in second}


def _second_of_minute(rows: Sequence[Row]) -> set[int]:
    """The places of the rows that are the second of their local minute."""
    taken: dict[Minute, set[str | None]] = {}
    second = set()
    for row in rows:
        labels = taken.setdefault(row.first, set())
        if labels.isdisjoint(row.values):
            labels.update(row.values)
        else:
            second.add(row.place)
    return second
