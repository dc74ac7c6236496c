"""Times as people, files and HTTP write them: RFC 3339, a date, Unix seconds, an HTTP date."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNIX = re.compile(r"\d{1,11}(?:\.\d{1,9})?", re.ASCII)
_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?P<zone>[Zz]|[+-]\d{2}:\d{2})?)?", re.ASCII
)


def parse_instant(text: str) -> float:
    """The Unix seconds of a time such as `2026-01-31T18:00:00+09:00`, `2026-01-31` (its start in UTC), `1769850000`.

    Raises:
        ValueError: The text is not a time; the message says how to write one.
    """
    if _UNIX.fullmatch(text):
        return float(text)
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time; write 2026-01-31T18:00:00Z, 2026-01-31 or Unix seconds")
    if len(text) > len("2026-01-31") and found["zone"] is None:
        raise ValueError(f"{text!r} names no zone; add Z for UTC, or an offset such as +09:00")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"{text!r} does not exist in the calendar") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_http_date(text: str) -> float | None:
    """The Unix seconds of an HTTP date such as `Fri, 27 Nov 2026 18:44:07 GMT`, None where the text is none."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def format_instant(instant: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
