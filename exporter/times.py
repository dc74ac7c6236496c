"""Durations in Prometheus' format, and times in RFC 3339, Unix seconds and HTTP's format. Pure."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECOND = 1000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

# Unit -> milliseconds. A duration has each unit at most once, largest first.
_UNITS = {"y": 365 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": _HOUR, "m": _MINUTE, "s": _SECOND, "ms": 1}
_OUTPUT_UNITS = ("d", "h", "m", "s", "ms")

# Nine digits are more than any setting allows, and fit into a float.
_PATTERN = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> float:
    """The seconds of a duration such as `1h30m`.

    Raises:
        ValueError: The text is not a duration.
    """
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise ValueError("not a duration")
    counts = zip(match.groups(), _UNITS.values(), strict=True)
    return sum(int(count) * size for count, size in counts if count is not None) / 1000


def format_duration(seconds: float) -> str:
    """Seconds as a duration such as `1h30m`, to the millisecond."""
    rest = round(seconds * 1000)
    text = ""
    for unit in _OUTPUT_UNITS:
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def round_duration(seconds: float) -> float:
    """A duration rounded to seconds, or to minutes from ten minutes on."""
    step = 1 if seconds < 600 else 60
    return round(seconds / step) * step


_UNIX = re.compile(r"\d{1,11}(?:\.\d{1,9})?", re.ASCII)
_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?P<zone>[Zz]|[+-]\d{2}:\d{2})?)?", re.ASCII
)


def parse_instant(text: str) -> float:
    """The Unix seconds of a time such as `2026-01-31T18:00:00+09:00`, `2026-01-31` (its start in UTC), `1769850000`.

    Raises:
        ValueError: The text is not a time; the message gives valid examples.
    """
    if _UNIX.fullmatch(text):
        return float(text)
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time; write 2026-01-31T18:00:00Z, 2026-01-31 or Unix seconds")
    if len(text) > len("2026-01-31") and found["zone"] is None:
        raise ValueError(f"{text!r} has no time zone; add Z for UTC, or an offset such as +09:00")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"{text!r} is not a valid date or time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_http_date(text: str) -> float | None:
    """The Unix seconds of an HTTP date such as `Fri, 27 Nov 2026 18:44:07 GMT`; None if the text is invalid."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def format_instant(instant: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
