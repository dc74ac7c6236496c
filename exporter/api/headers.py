"""Times in the headers of an answer. Pure."""

import re
from collections.abc import Mapping

from exporter.times import parse_http_date


def retry_after(written: str | None, now: float) -> float | None:
    """The seconds of a Retry-After header, None without a usable value.

    Args:
        written: The header: seconds, or a date.
        now: Unix seconds.
    """
    written = (written or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", written, re.ASCII):
        return float(written)
    moment = parse_http_date(written)
    # A date in the past means that the clocks differ.
    return moment - now if moment is not None and moment > now else None


def answer_date(headers: Mapping[str, str]) -> float | None:
    """The API's time when it answered (Unix seconds), None without a usable header."""
    made = parse_http_date(headers.get("Date", ""))
    # A cache sends the Date at which it stored the answer, and its Age in seconds.
    age = headers.get("Age", "0").strip()
    return made + int(age) if made is not None and re.fullmatch(r"\d{1,9}", age, re.ASCII) else made
