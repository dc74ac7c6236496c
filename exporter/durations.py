"""Durations as Prometheus writes them: `90s`, `2m`, `1h30m`, `500ms`."""

import re

_SECOND = 1000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

# Unit -> milliseconds, the largest first: the order in which they are written, each at most once.
_UNITS = {"y": 365 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": _HOUR, "m": _MINUTE, "s": _SECOND, "ms": 1}
_WRITTEN = ("d", "h", "m", "s", "ms")

# Nine digits are more than any setting takes, and keep the arithmetic within a float.
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
    """The shortest text that reads as a duration of that many seconds, to the millisecond."""
    rest = round(seconds * 1000)
    text = ""
    for unit in _WRITTEN:
        count, rest = divmod(rest, _UNITS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def round_duration(seconds: float) -> float:
    """A duration to the second, a long one to the minute."""
    step = 1 if seconds < 600 else 60
    return round(seconds / step) * step
