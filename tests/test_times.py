"""Parsing and formatting of durations and times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.times import format_duration, format_instant, parse_duration, parse_instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T18:00:00+09:00", 1769850000),
        ("2026-01-31t09:00:00.5z", 1769850000.5),
        ("2026-01-31 09:00Z", 1769850000),
        ("2026-01-31", 1769817600),
        ("1769850000", 1769850000),
        ("1769850000.25", 1769850000.25),
    ],
)
def test_a_time_is_read(text: str, instant: float) -> None:
    """RFC 3339 with any offset, a date in UTC, and Unix seconds are read."""
    assert parse_instant(text) == instant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a time"),
        ("yesterday", "is not a time"),
        ("-5", "is not a time"),
        ("2026-W05-6", "is not a time"),
        ("１７６９８５００００", "is not a time"),
        ("2026-01-31T18:00:00", "has no time zone"),
        ("2026-02-30", "is not a valid date or time"),
        ("2026-01-31T25:00:00Z", "is not a valid date or time"),
    ],
)
def test_an_invalid_time_is_refused(text: str, message: str) -> None:
    """An ambiguous or invalid time is rejected with a message that quotes it."""
    with pytest.raises(ValueError, match=message) as refused:
        parse_instant(text)
    assert repr(text) in str(refused.value)


def test_a_time_is_written() -> None:
    """The form is RFC 3339 in UTC, which is read as the same time."""
    assert format_instant(1769850000.9) == "2026-01-31T09:00:00Z"
    assert parse_instant(format_instant(1769850000)) == 1769850000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0), ("500ms", 0.5), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("1d", 86400), ("1w", 604800),
        ("1y", 31536000), ("1y2w3d4h5m6s7ms", 33019506.007), ("1m500ms", 60.5), ("90m", 5400),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    """Durations are parsed as in Prometheus."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "-1s", "1.5s", "1s1m", "1s1s", "1 s", "1S", "1h 5m", "1µs", "٣s", "1s\n", "1234567890s"],
)
def test_not_durations(text: str) -> None:
    """A text that is not a Prometheus duration is rejected."""
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 365 * 86_400_000).map(lambda count: count / 1000))
def test_durations_read_back(seconds: float) -> None:
    """A formatted duration parses to the same number of seconds."""
    assert math.isclose(parse_duration(format_duration(seconds)), seconds, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (120, "2m"), (150.5, "2m30s500ms"), (86400, "1d"), (864000, "10d"), (5400, "1h30m")],
)
def test_written_durations(seconds: float, text: str) -> None:
    """Durations are formatted in the largest units."""
    assert format_duration(seconds) == text
