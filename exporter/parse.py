"""The API's answers as values. Pure: bytes in, values or `MalformedAnswer` out.

The manual leaves the form of the answers open, so every plausible form is read. What reads in two ways, or would
lose a play, is refused whole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from exporter.bodies import error_text, excerpt, is_error, load, told
from exporter.errors import MalformedAnswer
from exporter.model import Group, Minute, Reading, Stream, minute_of

__all__ = ["LiveEvent", "Media", "error_text", "live_event", "media", "rows", "token"]

# The label value of what the API counts, but does not attribute.
UNKNOWN = "unknown"

# A number in a group's row that is the sum of the others.
TOTAL = "all"

LONGEST_LABEL = 200
# Beyond it a float no longer holds every whole number.
LARGEST = 2**53

# What is larger than this is not seconds since 1970, but milliseconds.
_MILLISECONDS = 1e11

# How the names of the members that hold a number are known, where label values come as pairs.
_COUNTS = frozenset({"count", "counts", "total", "number", "amount", TOTAL})

_DATE = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[ T](\d{1,2})(?::(\d{2})(?::[0-5]\d(?:\.\d+)?)?)? ?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")

# A label value as the API writes it, None for null.
_Label = str | None


@dataclass(frozen=True, slots=True)
class Media:
    """What the catalog knows of a media; "" for what it does not know.

    Attributes:
        media_id: The API's id of it.
        ref_id: The merchant's own id of it.
        name: Its title.
        live_event_id: The live event that it shows.
        encode_type: Whether it is a file or live.
    """

    media_id: str
    ref_id: str
    name: str
    live_event_id: str
    encode_type: str


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """A live event.

    Attributes:
        running: Whether it runs.
        started: When it began to (Unix seconds), or None where the API does not tell.
    """

    running: bool
    started: float | None = None


# ---- aggregations --------------------------------------------------------------------------------------------


def rows(body: bytes, stream: Stream, zone: ZoneInfo, *, hourly: bool = False) -> Reading:
    """The rows of an answer of `aggregations`.

    Args:
        body: The answer.
        stream: What was asked for.
        zone: The zone of dates that name none.
        hourly: Whether it was asked for by hour.

    Returns:
        Numbers by label value, by the minute at which the row's minute or hour starts, or the row's local day where
        the target is by day. A row that has no number has no label value.

    Raises:
        MalformedAnswer: The answer does not read as rows of the stream.
    """
    read: dict[Minute, dict[_Label, float]] = {}
    for place, row in enumerate(_row_list(load(body, braced=True)), 1):
        try:
            _read(row, read, stream, zone, hourly=hourly)
        except MalformedAnswer as error:
            raise MalformedAnswer(f"row {place}: {error}, in {excerpt(row)}") from None
    grouped = stream.group is not Group.ALL
    return Reading({slot: _shown(values, grouped=grouped) for slot, values in read.items()})


def _row_list(answer: object) -> list[Any]:
    if isinstance(answer, list):
        return answer
    if not isinstance(answer, dict):
        raise MalformedAnswer(f"neither a list nor an object: {excerpt(answer)}")
    lists = [value for value in answer.values() if isinstance(value, list)]
    if len(lists) != 1 or is_error(answer):
        problem = "an error" if is_error(answer) else "more than one list" if lists else "no list of rows"
        raise MalformedAnswer(f"{problem}: {told(answer) or excerpt(answer)}")
    return lists[0]


def _read(
    row: object, read: dict[Minute, dict[_Label, float]], stream: Stream, zone: ZoneInfo, *, hourly: bool
) -> None:
    """Add a row to those that were read before."""
    if not isinstance(row, dict):
        raise MalformedAnswer("not an object")
    slots, values = _slots(row.get("date"), stream, zone, hourly=hourly), _values(row, stream)
    # In the hour that is there twice when clocks are set back, the second row of a local minute is the later one.
    free = (slot for slot in slots[:-1] if values.keys().isdisjoint(read.get(slot, ())))
    known = read.setdefault(next(free, slots[-1]), {})
    for label, value in values.items():
        if known.setdefault(label, value) != value:
            raise MalformedAnswer(f"{value:.12g} where a row before has {known[label]:.12g}")


def _slots(written: object, stream: Stream, zone: ZoneInfo, *, hourly: bool) -> tuple[Minute, ...]:
    """The minutes that a row's date can mean, the one to prefer first."""
    if written is None:
        raise MalformedAnswer("no date")
    found = _DATE.fullmatch(written.strip()) if isinstance(written, str) else None
    if found is None:
        raise MalformedAnswer("a date that cannot be read")
    year, month, day, hour, minute, offset = found.groups()
    try:
        named = datetime.strptime(offset, "%z").tzinfo if offset else zone
        moment = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), tzinfo=named)
        if stream.target.by_day:
            return (_day(moment, zone, timed=hour is not None),)
        if hour is None or (minute is None and not hourly):
            raise MalformedAnswer("a date without a time")
        if hourly and int(minute or 0):
            raise MalformedAnswer("a time within the hour where whole hours were asked for")
        first, second = _minute(moment), _minute(moment.replace(fold=1))
    except (ValueError, OverflowError):
        raise MalformedAnswer("a date that does not exist") from None
    return (first, second) if first < second else (first,)


def _day(moment: datetime, zone: ZoneInfo, *, timed: bool) -> Minute:
    midnight = _minute(datetime.combine(moment.astimezone(zone), time(), zone))
    # Several rows of one day would be taken for one.
    if timed and _minute(moment) != midnight:
        raise MalformedAnswer("a time within the day where whole days were asked for")
    return midnight


def _minute(moment: datetime) -> Minute:
    return minute_of(moment.timestamp())


def _values(row: Mapping[str, Any], stream: Stream) -> dict[_Label, float]:
    members = {key: value for key, value in row.items() if key != "date"}
    parts = _single(members) if stream.group is Group.ALL else _parts(members, stream)
    values: dict[_Label, float] = {}
    for label, written in parts:
        if written is not None:
            value = _number(written)
            if values.setdefault(label, value) != value:
                raise MalformedAnswer(f"{excerpt(label)} twice")
    return values


def _single(members: Mapping[str, Any]) -> list[tuple[_Label, Any]]:
    if members.get(TOTAL) is not None:
        return [("", members[TOTAL])]
    values = [value for value in members.values() if value is not None]
    if len(values) > 1:
        raise MalformedAnswer(f"several values and no {excerpt(TOTAL)}")
    return [("", value) for value in values]


def _parts(members: Mapping[str, Any], stream: Stream) -> list[tuple[_Label, Any]]:
    """The label values and what is written for them, from whatever form they are in."""
    nested = [key for key, value in members.items() if isinstance(value, dict | list)]
    if not nested:
        return [_pair(members, stream)] if _is_pair(members, stream) else list(members.items())
    if len(nested) > 1:
        raise MalformedAnswer("more than one object or list")
    inner = members[nested[0]]
    beside = {key for key, value in members.items() if value is not None} - {nested[0], TOTAL}
    if beside and nested[0] != stream.group:
        raise MalformedAnswer("values both in and beside an object or list")
    total: list[tuple[_Label, Any]] = [(TOTAL, members.get(TOTAL))]
    if isinstance(inner, dict):
        return total + list(inner.items())
    return total + [_pair(pair, stream) for pair in inner]


def _is_pair(members: Mapping[str, Any], stream: Stream) -> bool:
    """Whether a row is one label value and its number, such as `{"country": "jp", "count": 10}`."""
    if stream.group not in members or len(members) != 2:
        return False
    label = members[stream.group]
    if label is None:
        return not _counts(stream).isdisjoint(members)
    return isinstance(label, str) and _NUMBER.fullmatch(label.strip()) is None


def _pair(pair: object, stream: Stream) -> tuple[_Label, Any]:
    if isinstance(pair, dict) and len(pair) == 1:
        return next(iter(pair.items()))
    if not isinstance(pair, dict) or len(pair) != 2:
        raise MalformedAnswer("not pairs of a value and its count")
    named = [key for key in pair if key != stream.group and (stream.group in pair or key in _counts(stream))]
    typed = [key for key, value in pair.items() if type(value) in (int, float)]
    written = [key for key, value in pair.items() if isinstance(value, str) and _NUMBER.fullmatch(value)]
    count = next((keys[0] for keys in (named, typed, written) if len(keys) == 1), None)
    if count is None:
        raise MalformedAnswer("pairs in which the count cannot be told")
    (label,) = (value for key, value in pair.items() if key != count)
    if isinstance(label, bool | dict | list):
        raise MalformedAnswer("pairs without a label value")
    return None if label is None else str(label), pair[count]


def _counts(stream: Stream) -> frozenset[str]:
    return _COUNTS | {str(stream.target)}


def _number(written: object) -> float:
    number = written
    if isinstance(written, str) and _NUMBER.fullmatch(written.strip()):
        number = float(written)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise MalformedAnswer(f"{excerpt(written)} is not a number")
    if not 0 <= number <= LARGEST:
        raise MalformedAnswer(f"{excerpt(written)} is negative or too large")
    return abs(float(number))  # -0.0 is 0


def _shown(values: Mapping[_Label, float], *, grouped: bool) -> Mapping[str, float]:
    """The values of a row under the label values that the exporter shows."""
    if not grouped:
        return {label or "": value for label, value in values.items()}
    shown: dict[str, float] = {}
    for label, value in values.items():
        if label != TOTAL or (value and len(values) == 1):
            # Label values that become the same are added: no play is lost.
            name = _whole(label or UNKNOWN)[:LONGEST_LABEL]
            shown[name] = shown.get(name, 0) + value
    return shown


# ---- the catalog, live events, tokens ------------------------------------------------------------------------


def media(body: bytes) -> Media:
    """What the catalog answers for a media.

    Raises:
        MalformedAnswer: The answer does not read as a media.
    """
    found = _record(body, "a media", {"id", "ref_id", "name", "live_event_id", "encode_type"})
    return Media(
        media_id=_text(found.get("id")),
        ref_id=_text(found.get("ref_id")),
        name=_text(found.get("name")),
        live_event_id=_text(found.get("live_event_id")),
        encode_type=_text(found.get("encode_type")),
    )


def live_event(body: bytes) -> LiveEvent:
    """What the API answers for a live event.

    Raises:
        MalformedAnswer: The answer does not tell whether it runs.
    """
    found = _record(body, "a live event", {"encode_status"})
    running = _text(found["encode_status"]).lower().removeprefix("encode_status_") == "running"
    started = found.get("live_encode_start_at")
    # In which zone a time without an offset would be is not known, so it tells nothing.
    told = isinstance(started, str) and re.search(r"(Z|[+-]\d{2}:?\d{2})$", started.strip()) is not None
    return LiveEvent(running, _expiry(started) if told else None)


def token(body: bytes) -> tuple[str, float | None]:
    """An access token and when it expires (Unix seconds), None where that is not told.

    Raises:
        MalformedAnswer: There is no token in the answer. The message holds nothing of the answer.
    """
    try:
        answer = load(body)
    except MalformedAnswer:
        answer = None
    found = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(found, str) or not _TOKEN.fullmatch(found):
        raise MalformedAnswer("no token that an HTTP header can carry")
    return found, _expiry(answer.get("expiration") or answer.get("expired_at"))


def _expiry(written: object) -> float | None:
    seconds: object = written
    if isinstance(written, str):
        seconds = float(written) if _NUMBER.fullmatch(written) else _instant(written)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    seconds = seconds / 1000 if _MILLISECONDS < seconds <= LARGEST else seconds
    return float(seconds) if 0 < seconds <= _MILLISECONDS else None


def _instant(written: str) -> float | None:
    try:
        moment = datetime.fromisoformat(written.strip().replace("/", "-"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _record(body: bytes, what: str, keys: set[str]) -> Mapping[str, Any]:
    """The object that has one of the keys: the answer, or its only object."""
    answer = load(body)
    if isinstance(answer, dict) and not is_error(answer):
        inner = [value for value in answer.values() if isinstance(value, dict)]
        for found in (answer, *inner[: len(inner) == 1]):
            if not keys.isdisjoint(found):
                return found
    raise MalformedAnswer(f"not {what}: {told(answer) or excerpt(answer)}")


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return _whole(str(value))[:LONGEST_LABEL]


def _whole(text: str) -> str:
    """A text without halves of characters, which no encoding can write."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
