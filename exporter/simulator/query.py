"""Parses the query of `aggregations`, or refuses it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from zoneinfo import ZoneInfo

from exporter.model import DAY_MINUTES, MINUTE, Group, MinuteRange, Stream, Target, minute_of
from exporter.simulator.reply import bad_request
from exporter.simulator.rows import Interval

KNOWN = frozenset({"media_id", "target", "interval", "group", "from", "to"})
DATE_FORMAT = "%Y%m%d%H%M%S"
# A little more than a year, so that no request keeps a thread for minutes.
MAX_DAYS = 400

Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed `aggregations` query.

    Attributes:
        stream: Whose values, which, and how split.
        interval: The length of a row.
        minutes: The minutes that start from `from` to `to`.
    """

    stream: Stream
    interval: Interval
    minutes: MinuteRange


def read_query(parameters: Mapping[str, str], merchant_id: str, now: float, zone: ZoneInfo, max_range: int) -> Query:
    """Parse a query; `from` defaults to the start of today, `to` to now. Raises Refusal with status 400."""
    for unknown in parameters.keys() - KNOWN:
        raise bad_request(f"unknown parameter {unknown}")
    target = _word(Target, "target", parameters, Target.PLAY_COUNT)
    interval = _word(Interval, "interval", parameters, Interval.DAY)
    group = _word(Group, "group", parameters, Group.ALL)
    if target.by_day and (interval in (Interval.MINUTE, Interval.HOUR) or group is not Group.ALL):
        raise bad_request(f"{target} has interval day or month and group all only")
    today = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    start = _instant("from", parameters, today.timestamp(), zone)
    end = _instant("to", parameters, now, zone)
    if start > end:
        raise bad_request("from is after to")
    # A range contains the minutes whose start it contains: `from` in the middle of a minute excludes that minute.
    minutes = MinuteRange(-int(-start // MINUTE), minute_of(end))
    if len(minutes) > MAX_DAYS * DAY_MINUTES:
        raise bad_request(f"the range is longer than {MAX_DAYS} days")
    if interval is Interval.MINUTE and 0 < max_range < len(minutes):
        raise bad_request(f"the range is longer than {max_range} minutes")
    return Query(Stream(merchant_id, parameters.get("media_id", ""), target, group), interval, minutes)


def _word(kind: type[Word], name: str, parameters: Mapping[str, str], default: Word) -> Word:
    try:
        return kind(parameters.get(name, default))
    except ValueError:
        raise bad_request(f"unknown {name} {parameters[name]!r}") from None


def _instant(name: str, parameters: Mapping[str, str], default: float, zone: ZoneInfo) -> float:
    text = parameters.get(name)
    if text is None:
        return default
    try:
        # strptime also accepts shorter texts.
        if len(text) == 14 and text.isascii() and text.isdecimal():
            instant = datetime.strptime(text, DATE_FORMAT).replace(tzinfo=zone).timestamp()
            if instant >= 0:
                return instant
    except ValueError:
        pass
    raise bad_request(f"{name} is not a date like 20181231235959")
