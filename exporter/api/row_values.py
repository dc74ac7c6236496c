"""One row of an answer of `aggregations`: its date and its numbers. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from exporter.api.json_body import Twice, excerpt
from exporter.api.row_forms import NUMBER, Label, parts, single
from exporter.errors import MalformedAnswer
from exporter.localtime import midnight, repeat_of
from exporter.model import Group, Minute, MinuteRange, Stream, minute_of

# Counters hold millionths in 64 bits.
LARGEST = 10**12

_DATE = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[ T](\d{1,2})(?::(\d{2})(?::[0-5]\d(?:\.\d+)?)?)? ?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)


class UnusableError(ValueError):
    """A value or the date of a row cannot be used. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """A parsed row.

    Attributes:
        place: Its place in the list, from 1.
        raw: The row's JSON value.
        first: Its first minute, as far as its local time says; in a repeat, that of the first pass.
        second: That of the second pass; equal to `first` if there is none.
        span: The minutes in which it can start: a repeat, or only `first`.
        values: Its numbers by label value; None for an unusable one.
        problems: The reasons why numbers are unusable, by label value.
        nested: Whether all its values are non-empty objects or lists instead of numbers.
    """

    place: int
    raw: object
    first: Minute
    second: Minute
    span: MinuteRange
    values: Mapping[Label, float | None]
    problems: Mapping[Label, str]
    nested: bool


def read_row(place: int, row: object, stream: Stream, zone: ZoneInfo, *, hourly: bool) -> Row:
    """Parse one row, independently of the others.

    Args:
        place: Its place in the list, from 1.
        row: The row's JSON value.
        stream: What was requested.
        zone: The zone of dates without an offset.
        hourly: Whether whole hours were requested.

    Raises:
        UnusableError: It has no usable date.
        MalformedAnswer: Its form is ambiguous, or it is not what was requested.
    """
    if not isinstance(row, dict):
        raise UnusableError("not an object")
    first, second = _minutes(row.get("date"), stream, zone, hourly=hourly)
    repeat = repeat_of(first, zone) if first != second else None
    members = {key: value for key, value in row.items() if key != "date"}
    values: dict[Label, float | None] = {}
    problems: dict[Label, str] = {}
    given = single(members) if stream.group is Group.ALL else parts(members, stream)
    given = [(label, raw) for label, raw in given if raw is not None]
    for label, raw in given:
        value: float | None = None
        try:
            value = _number(raw)
        except UnusableError as error:
            problems[label] = str(error)
        except Exception as error:  # noqa: BLE001 - a bug affects only this value, which is then unknown
            problems[label] = f"unexpected {type(error).__name__}"
        if values.setdefault(label, value) != value:
            values[label] = None
            problems[label] = f"duplicate {excerpt(label)}"
    nested = all(isinstance(raw, dict | list) and raw for _, raw in given)
    return Row(place, row, first, second, repeat or MinuteRange(first, first), values, problems, nested)


def _minutes(date: object, stream: Stream, zone: ZoneInfo, *, hourly: bool) -> tuple[Minute, Minute]:
    """The minute of a row's date; if its local time is repeated, the minutes of both passes."""
    if date is None:
        raise UnusableError("no date")
    found = _DATE.fullmatch(date.strip()) if isinstance(date, str) else None
    if found is None:
        raise UnusableError("unreadable date")
    year, month, day, hour, minute, offset = found.groups()
    try:
        named = datetime.strptime(offset, "%z").tzinfo if offset else zone
        moment = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), tzinfo=named)
        if stream.target.by_day:
            start = _day(moment, zone, timed=hour is not None)
            return start, start
        first, second = _minute(moment), _minute(moment.replace(fold=1))
    except (ValueError, OverflowError):
        raise UnusableError("nonexistent date") from None
    if hour is None or (minute is None and not hourly):
        raise MalformedAnswer("a date without a time")
    if hourly and int(minute or 0):
        raise MalformedAnswer("a time within the hour, but whole hours were requested")
    return first, max(first, second)


def _day(moment: datetime, zone: ZoneInfo, *, timed: bool) -> Minute:
    start = midnight(moment.astimezone(zone).date(), zone)
    # Otherwise several rows of a day would replace each other.
    if timed and _minute(moment) != start:
        raise MalformedAnswer("a time within the day, but whole days were requested")
    return start


def _minute(moment: datetime) -> Minute:
    return minute_of(moment.timestamp())


def _number(raw: object) -> float:
    """The number of a JSON value. Raises UnusableError."""
    if isinstance(raw, Twice):
        raise UnusableError("duplicate key with different values")
    number = raw
    if isinstance(raw, str) and NUMBER.fullmatch(raw.strip()):
        number = float(raw)
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise UnusableError(f"{excerpt(raw)} is not a number")
    if number < 0:
        raise UnusableError(f"{excerpt(raw)} is negative")
    if number > LARGEST:
        raise UnusableError(f"{excerpt(raw)} is too large")
    return abs(float(number))  # -0.0 becomes 0
