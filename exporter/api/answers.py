"""The API's answers as values. Pure: bytes in, values or `MalformedAnswer` out.

The manual leaves the form of the answers open, so every plausible form is read. An answer whose form reads in two ways,
or would lose a play, is refused whole. A single value that cannot be used is unknown, and the rest is read.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from exporter.api.json_body import Twice, error_summary, error_text, excerpt, is_error, load, load_rows
from exporter.api.passes import Dated, placed
from exporter.api.row_forms import NUMBER, TOTAL, Label, parts, single
from exporter.errors import MalformedAnswer
from exporter.localtime import midnight
from exporter.model import Group, Minute, Reading, Stream, minute_of
from exporter.redact import CUT

__all__ = ["LiveEvent", "Media", "error_text", "live_event", "media", "rows", "token"]

# The label value of what the API counts, but does not attribute.
UNKNOWN = "unknown"

LONGEST_LABEL = 200
# Counters hold millionths in 64 bits.
LARGEST = 10**12

# Problems of an answer that are listed; the others are counted.
MOST_PROBLEMS = 3

# What is larger than this is not seconds since 1970, but milliseconds. Beyond the other it is no time.
_MILLISECONDS = 1e11
_LATEST = 2**53

# Names under which an answer can say that it is one, with what it then says; and others that say nothing of its rows.
_GOOD = frozenset({"ok", "success", "succeeded", "200"})
_BAD = frozenset({"error", "fail", "failed", "failure"})
_STATES = frozenset({"status", "code", "success", "ok", "result", "message", "msg"})
_NUMBERS = frozenset({"count", "total", "size", "length"})

_DATE = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[ T](\d{1,2})(?::(\d{2})(?::[0-5]\d(?:\.\d+)?)?)? ?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


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


class _Unusable(ValueError):
    """A value, or the date of a row, that cannot be used. The message tells why."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row that has been read.

    Attributes:
        place: Its place in the list, from 1.
        written: The row as it is.
        dated: When it is of.
        values: Its numbers by label value; None for one that cannot be used.
        problems: Why that is, by label value.
        nested: Whether it has objects or lists that hold something in the place of all its numbers.
    """

    place: int
    written: object
    dated: Dated
    values: Mapping[Label, float | None]
    problems: Mapping[Label, str]
    nested: bool


def rows(
    body: bytes, stream: Stream, zone: ZoneInfo, *, hourly: bool = False, hide: Callable[[str], str] = str
) -> Reading:
    """The rows of an answer of `aggregations`.

    Args:
        body: The answer.
        stream: What was asked for.
        zone: The zone of dates that name none.
        hourly: Whether it was asked for by hour.
        hide: Makes secrets in a label value unreadable.

    Returns:
        Numbers by label value, by the minute at which the row's minute or hour starts, or the row's local day where
        the target is by day. A row that has no number has no label value; a number that cannot be used is None.

    Raises:
        MalformedAnswer: The answer does not read as rows of the stream.
    """
    listed = _row_list(load_rows(body))
    read: list[_Row] = []
    problems: list[_Problem] = []
    for place, row in enumerate(listed, 1):
        try:
            read.append(_read(place, row, stream, zone, hourly=hourly))
        except _Unusable as error:
            problems.append(_Problem(place, str(error), row))
        except MalformedAnswer as error:
            raise MalformedAnswer(str(_Problem(place, str(error), row))) from None
    if listed and not read:
        raise MalformedAnswer(str(problems[0]))
    valued = [row for row in read if row.values]
    if valued and all(row.nested for row in valued):
        first = valued[0]
        raise MalformedAnswer(str(_Problem(first.place, "an object or a list in the place of a number", first.written)))
    return _reading(read, problems, stream, zone, hide)


@dataclass(frozen=True, slots=True)
class _Problem:
    """What in a row cannot be used. It is put into words only where they are shown: there may be very many.

    Attributes:
        place: The place of the row in the list, from 1.
        what: What is wrong.
        row: The row as it is.
    """

    place: int
    what: str
    row: object

    def __str__(self) -> str:
        """The problem as one line."""
        return f"row {self.place}: {self.what}, in {excerpt(self.row)}"


def _reading(
    read: Sequence[_Row],
    problems: list[_Problem],
    stream: Stream,
    zone: ZoneInfo,
    hide: Callable[[str], str],
) -> Reading:
    """The rows under the minutes at which they start."""
    found: dict[Minute, dict[Label, float | None]] = {}
    unusable: list[tuple[_Row, Minute, Label, str]] = []
    minutes = placed([row.dated for row in read], zone)
    for row, minute in zip(read, minutes, strict=True):
        known = found.setdefault(minute, {})
        for label, value in row.values.items():
            before = known.setdefault(label, value)
            if label in row.problems:
                unusable.append((row, minute, label, row.problems[label]))
            elif before is not None and before != value:
                unusable.append((row, minute, label, f"{value:.12g} where a row before has {before:.12g}"))
            if before != value:
                known[label] = None
    grouped = stream.group is not Group.ALL
    problems = problems + [
        _Problem(row.place, problem, row.written)
        for row, minute, label, problem in unusable
        # Where the parts are known, their sum does not matter.
        if not grouped or label != TOTAL or len(found[minute]) == 1
    ]
    problems.sort(key=lambda problem: problem.place)
    lines = tuple(map(str, problems[:MOST_PROBLEMS]))
    more = len(problems) - MOST_PROBLEMS
    shown = (*lines, f"and {more} more") if more > 0 else lines
    return Reading({minute: _shown(values, hide, grouped=grouped) for minute, values in found.items()}, shown)


def _row_list(answer: object) -> list[Any]:
    """The rows: the answer itself, or the only list in its objects. There are none where it is null in plain words."""
    if isinstance(answer, list):
        return answer
    if answer is None:
        return []
    if not isinstance(answer, dict):
        raise MalformedAnswer(f"neither a list nor an object: {excerpt(answer)}")
    objects, leaves = [answer], list[tuple[str, Any]]()
    problem = "no list of rows"
    while objects:
        if any(is_error(each) or _says_error(each) for each in objects):
            problem = "an error"
            break
        members = [member for each in objects for member in each.items()]
        lists = [value for _, value in members if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
        if lists:
            problem = "more than one list"
            break
        objects = [value for _, value in members if isinstance(value, dict)]
        leaves += [(key, value) for key, value in members if not isinstance(value, dict)]
    else:
        if all(_says_nothing(key, value) for key, value in leaves):
            return []
    raise MalformedAnswer(f"{problem}: {error_summary(answer) or excerpt(answer)}")


def _says_error(answer: Mapping[str, Any]) -> bool:
    for key, value in answer.items():
        name = key.lower()
        if name in _STATES and (value is False or (isinstance(value, str) and value.lower() in _BAD)):
            return True
    return False


def _says_nothing(key: str, value: object) -> bool:
    """Whether a member beside rows that are null lets them be none: it tells of no error, and of no row."""
    if value is None:
        return True
    name, text = key.lower(), str(value).lower()
    if name in _STATES:
        return value is True or text in _GOOD or (name in ("status", "code") and text == "0")
    return (name in _NUMBERS and text == "0") or (name in ("error", "errors") and not value)


def _read(place: int, row: object, stream: Stream, zone: ZoneInfo, *, hourly: bool) -> _Row:
    """A row, alone. Raises _Unusable where it has no date that can be used, and MalformedAnswer for its form."""
    if not isinstance(row, dict):
        raise _Unusable("not an object")
    first, second = _slots(row.get("date"), stream, zone, hourly=hourly)
    members = {key: value for key, value in row.items() if key != "date"}
    values: dict[Label, float | None] = {}
    problems: dict[Label, str] = {}
    given = single(members) if stream.group is Group.ALL else parts(members, stream)
    given = [(label, written) for label, written in given if written is not None]
    for label, written in given:
        value: float | None = None
        try:
            value = _number(written)
        except _Unusable as error:
            problems[label] = str(error)
        except Exception as error:  # noqa: BLE001 - a defect is this value's alone: it is not known, and never lost
            problems[label] = f"unexpected {type(error).__name__}"
        if values.setdefault(label, value) != value:
            values[label] = None
            problems[label] = f"{excerpt(label)} is there twice"
    nested = all(isinstance(written, dict | list) and written for _, written in given)
    return _Row(place, row, Dated(first, second, values.keys()), values, problems, nested)


def _slots(written: object, stream: Stream, zone: ZoneInfo, *, hourly: bool) -> tuple[Minute, Minute]:
    """The minute that a row's date means; where its local time is there twice, those of both passes."""
    if written is None:
        raise _Unusable("no date")
    found = _DATE.fullmatch(written.strip()) if isinstance(written, str) else None
    if found is None:
        raise _Unusable("a date that cannot be read")
    year, month, day, hour, minute, offset = found.groups()
    try:
        named = datetime.strptime(offset, "%z").tzinfo if offset else zone
        moment = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), tzinfo=named)
        if stream.target.by_day:
            start = _day(moment, zone, timed=hour is not None)
            return start, start
        first, second = _minute(moment), _minute(moment.replace(fold=1))
    except (ValueError, OverflowError):
        raise _Unusable("a date that does not exist") from None
    if hour is None or (minute is None and not hourly):
        raise MalformedAnswer("a date without a time")
    if hourly and int(minute or 0):
        raise MalformedAnswer("a time within the hour where whole hours were asked for")
    return first, max(first, second)


def _day(moment: datetime, zone: ZoneInfo, *, timed: bool) -> Minute:
    start = midnight(moment.astimezone(zone).date(), zone)
    # Several rows of one day would be taken for one.
    if timed and _minute(moment) != start:
        raise MalformedAnswer("a time within the day where whole days were asked for")
    return start


def _minute(moment: datetime) -> Minute:
    return minute_of(moment.timestamp())


def _number(written: object) -> float:
    """A number as it is counted. Raises _Unusable."""
    if isinstance(written, Twice):
        raise _Unusable("a value that is given twice")
    number = written
    if isinstance(written, str) and NUMBER.fullmatch(written.strip()):
        number = float(written)
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise _Unusable(f"{excerpt(written)} is not a number")
    if number < 0:
        raise _Unusable(f"{excerpt(written)} is negative")
    if number > LARGEST:
        raise _Unusable(f"{excerpt(written)} is too large")
    return abs(float(number))  # -0.0 is 0


def _shown(
    values: Mapping[Label, float | None], hide: Callable[[str], str], *, grouped: bool
) -> Mapping[str, float | None]:
    """The values of a row under the label values that the exporter shows."""
    if not grouped:
        return {label or "": value for label, value in values.items()}
    shown: dict[str, float | None] = {}
    for label, value in values.items():
        if label != TOTAL or (value != 0 and len(values) == 1):
            # Label values that become the same are added: no play is lost.
            name = _bounded(label or UNKNOWN, hide)
            before = shown.get(name, 0)
            both = None if before is None or value is None else before + value
            shown[name] = both if both is None or both <= LARGEST else None
    return shown


# ---- the catalog, live events, tokens ------------------------------------------------------------------------


def media(body: bytes, *, hide: Callable[[str], str] = str) -> Media:
    """What the catalog answers for a media.

    Args:
        body: The answer.
        hide: Makes secrets in a text unreadable.

    Raises:
        MalformedAnswer: The answer does not read as a media.
    """
    found = _record(body, "a media", {"id", "ref_id", "name", "live_event_id", "encode_type"})
    return Media(
        media_id=_text(found.get("id"), hide),
        ref_id=_text(found.get("ref_id"), hide),
        name=_text(found.get("name"), hide),
        live_event_id=_text(found.get("live_event_id"), hide),
        encode_type=_text(found.get("encode_type"), hide),
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
        seconds = float(written) if NUMBER.fullmatch(written) else _instant(written)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    seconds = seconds / 1000 if _MILLISECONDS < seconds <= _LATEST else seconds
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
    raise MalformedAnswer(f"not {what}: {error_summary(answer) or excerpt(answer)}")


def _text(value: object, hide: Callable[[str], str] = str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return _bounded(str(value), hide)


def _bounded(text: str, hide: Callable[[str], str]) -> str:
    """A text from outside as it is shown, without secrets and not too long."""
    # Cut only after the secrets are hidden: half a secret would not be found. What is much longer is cut before, too,
    # with the mark that the search for secrets knows.
    much = text if len(text) <= 20 * LONGEST_LABEL else text[: 20 * LONGEST_LABEL] + CUT
    return hide(_whole(much))[:LONGEST_LABEL]


def _whole(text: str) -> str:
    """A text without halves of characters, which no encoding can write."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
