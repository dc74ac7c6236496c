"""Parsing of the API's answers. Pure: bytes in, values or `MalformedAnswer` out.

The API's manual does not specify the form of the answers, so every plausible form is accepted. An answer whose form is
ambiguous, or that would lose plays, is rejected. A single unusable value is unknown; the rest of the answer is used.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from exporter.api.json_body import clean, error_summary, error_text, excerpt, is_error, load, load_rows
from exporter.api.passes import assign_passes
from exporter.api.row_forms import NUMBER, TOTAL, Label
from exporter.api.row_list import find_rows
from exporter.api.row_values import LARGEST, Row, UnusableError, read_row
from exporter.errors import MalformedAnswer
from exporter.model import Group, Minute, Reading, Stream
from exporter.text_layers import CUT

__all__ = ["LiveEvent", "Media", "error_text", "live_event", "media", "rows", "token"]

# The label value of plays that the API does not attribute to any.
UNKNOWN = "unknown"

LONGEST_LABEL = 200

# Of a media's tags, so many are kept, each of so many characters.
MOST_TAGS = 50
LONGEST_TAG = 100

# Number of an answer's problems that are listed; the others are counted.
MOST_PROBLEMS = 3

# Larger values are Unix milliseconds, not seconds. Values above the second limit are not times.
_MILLISECONDS = 1e11
_LATEST = 2**53

_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


@dataclass(frozen=True, slots=True)
class Media:
    """A media's entry in the catalog; unknown texts are "".

    Attributes:
        ref_id: The merchant's own id.
        name: Its title.
        live_event_id: Its live event.
        encode_type: Whether it is a file or live.
        media_id: Its id in the API.
        tags: The merchant's words for it, each once, in alphabetical order, none with a comma.
    """

    ref_id: str
    name: str
    live_event_id: str
    encode_type: str
    media_id: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """A live event.

    Attributes:
        running: Whether it is running.
        started: Its start (Unix seconds), or None if the API does not report it.
    """

    running: bool
    started: float | None = None


def rows(
    body: bytes, stream: Stream, zone: ZoneInfo, *, hourly: bool = False, hide: Callable[[str], str] = str
) -> Reading:
    """Parse an answer of `aggregations`.

    Args:
        body: The answer.
        stream: What was requested.
        zone: The zone of dates without an offset.
        hourly: Whether whole hours were requested.
        hide: Redacts secrets in the label values and the problems.

    Returns:
        Numbers by label value, by the first minute of the row's minute or hour, or of its local day if the target is
        daily. A row without a number has no label values; an unusable number is None.

    Raises:
        MalformedAnswer: The answer has no unambiguous rows of the stream.
    """
    listed = find_rows(load_rows(body))
    read: list[Row] = []
    problems: list[_Problem] = []
    for place, row in enumerate(listed, 1):
        try:
            read.append(read_row(place, row, stream, zone, hourly=hourly))
        except UnusableError as error:
            problems.append(_Problem(place, str(error), row))
        except MalformedAnswer as error:
            raise MalformedAnswer(str(_Problem(place, str(error), row))) from None
    if listed and not read:
        raise MalformedAnswer(str(problems[0]))
    valued = [row for row in read if row.values]
    if valued and all(row.nested for row in valued):
        first = valued[0]
        raise MalformedAnswer(str(_Problem(first.place, "an object or a list instead of a number", first.raw)))
    return _reading(read, problems, stream, hide)


@dataclass(frozen=True, slots=True)
class _Problem:
    """An unusable part of a row. Its text is built only if it is shown, because there may be very many.

    Attributes:
        place: The place of the row in the list, from 1.
        what: What is wrong.
        row: The row's JSON value.
    """

    place: int
    what: str
    row: object

    def __str__(self) -> str:
        """The problem as one line."""
        return f"row {self.place}: {self.what}, in {excerpt(self.row)}"


def _reading(
    read: Sequence[Row],
    problems: list[_Problem],
    stream: Stream,
    hide: Callable[[str], str],
) -> Reading:
    """Merge the rows of each minute, and list the problems."""
    found: dict[Minute, dict[Label, float | None]] = {}
    unusable: list[tuple[Row, Minute, Label, str]] = []
    for row, minute in zip(read, assign_passes(read), strict=True):
        known = found.setdefault(minute, {})
        for label, value in row.values.items():
            before = known.setdefault(label, value)
            if label in row.problems:
                unusable.append((row, minute, label, row.problems[label]))
            elif before is not None and before != value:
                unusable.append((row, minute, label, f"{value:.12g}, but an earlier row has {before:.12g}"))
            if before != value:
                known[label] = None
    grouped = stream.group is not Group.ALL
    problems = problems + [
        _Problem(row.place, problem, row.raw)
        for row, minute, label, problem in unusable
        # The total does not matter if its parts are known.
        if not grouped or label != TOTAL or len(found[minute]) == 1
    ]
    problems.sort(key=lambda problem: problem.place)
    lines = tuple(hide(str(problem)) for problem in problems[:MOST_PROBLEMS])
    more = len(problems) - MOST_PROBLEMS
    shown = (*lines, f"and {more} more") if more > 0 else lines
    return Reading({minute: _labelled(values, hide, grouped=grouped) for minute, values in found.items()}, shown)


def _labelled(
    values: Mapping[Label, float | None], hide: Callable[[str], str], *, grouped: bool
) -> Mapping[str, float | None]:
    """The values of a row by the label values that the exporter exposes."""
    if not grouped:
        return {label or "": value for label, value in values.items()}
    shown: dict[str, float | None] = {}
    for label, value in values.items():
        if label != TOTAL or (value != 0 and len(values) == 1):
            # Label values that become equal are added, so that no play is lost.
            name = _bounded(label or UNKNOWN, hide)
            before = shown.get(name, 0)
            both = None if before is None or value is None else before + value
            shown[name] = both if both is None or both <= LARGEST else None
    return shown


def media(body: bytes, *, hide: Callable[[str], str] = str) -> Media:
    """Parse the catalog's answer for a media.

    Args:
        body: The answer.
        hide: Redacts secrets in a text.

    Raises:
        MalformedAnswer: The answer is not a media.
    """
    keys = ("ref_id", "name", "live_event_id", "encode_type", "id")
    found = _record(body, "a media", set(keys))
    ref_id, name, live_event_id, encode_type, media_id = (_text(found.get(key), hide) for key in keys)
    return Media(ref_id, name, live_event_id, encode_type, media_id, _tags(found.get("tags"), hide))


def _tags(value: object, hide: Callable[[str], str]) -> tuple[str, ...]:
    """The texts of a list, without commas, which separate them in a label."""
    texts = [_text(each, hide).replace(",", " ") for each in value[: 20 * MOST_TAGS]] if isinstance(value, list) else []
    return tuple(sorted({clean(text, LONGEST_TAG) for text in texts} - {""})[:MOST_TAGS])


def live_event(body: bytes) -> LiveEvent:
    """Parse the API's answer for a live event.

    Raises:
        MalformedAnswer: The answer does not say whether it is running.
    """
    found = _record(body, "a live event", {"encode_status"})
    running = _text(found["encode_status"]).lower().removeprefix("encode_status_") == "running"
    started = found.get("live_encode_start_at")
    # The zone of a time without an offset is not known.
    has_offset = isinstance(started, str) and re.search(r"(Z|[+-]\d{2}:?\d{2})$", started.strip()) is not None
    return LiveEvent(running, _unix_seconds(started) if has_offset else None)


def token(body: bytes) -> tuple[str, float | None]:
    """Parse an access token and its expiry (Unix seconds), which is None if it is unknown.

    Raises:
        MalformedAnswer: The answer has no valid token. The message contains nothing of the answer.
    """
    try:
        answer = load(body)
    except MalformedAnswer:
        answer = None
    found = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(found, str) or not _TOKEN.fullmatch(found):
        if body.lstrip()[:1] == b"<":
            raise MalformedAnswer("an HTML page instead of JSON; check api.url, and the proxy if there is one")
        raise MalformedAnswer("no token that is valid in an HTTP header")
    return found, _unix_seconds(answer.get("expiration") or answer.get("expired_at"))


def _unix_seconds(raw: object) -> float | None:
    seconds: object = raw
    if isinstance(raw, str):
        seconds = float(raw) if NUMBER.fullmatch(raw) else _instant(raw)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    seconds = seconds / 1000 if _MILLISECONDS < seconds <= _LATEST else seconds
    return float(seconds) if 0 < seconds <= _MILLISECONDS else None


def _instant(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip().replace("/", "-"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _record(body: bytes, what: str, keys: set[str]) -> Mapping[str, Any]:
    """The object that has one of the keys: the answer itself, or the only object in it."""
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
    """An external text, redacted and shortened."""
    # Shortened after the redaction, which would not find a part of a secret. Much longer texts are cut before it too,
    # with the mark that the redactor recognizes.
    start = text if len(text) <= 20 * LONGEST_LABEL else text[: 20 * LONGEST_LABEL] + CUT
    return hide(_without_surrogates(start))[:LONGEST_LABEL]


def _without_surrogates(text: str) -> str:
    """A text without lone surrogates, which cannot be encoded."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
