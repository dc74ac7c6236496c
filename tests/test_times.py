"""Times as they are written."""

import pytest

from exporter.times import format_instant, parse_instant


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
    ("text", "told"),
    [
        ("", "is not a time"),
        ("yesterday", "is not a time"),
        ("-5", "is not a time"),
        ("2026-W05-6", "is not a time"),
        ("１７６９８５００００", "is not a time"),
        ("2026-01-31T18:00:00", "names no zone"),
        ("2026-02-30", "does not exist"),
        ("2026-01-31T25:00:00Z", "does not exist"),
    ],
)
def test_what_is_no_time_is_refused(text: str, told: str) -> None:
    """What reads in two ways or not at all is refused with a text that quotes it."""
    with pytest.raises(ValueError, match=told) as refused:
        parse_instant(text)
    assert repr(text) in str(refused.value)


def test_a_time_is_written() -> None:
    """As RFC 3339 in UTC, which reads as the same time."""
    assert format_instant(1769850000.9) == "2026-01-31T09:00:00Z"
    assert parse_instant(format_instant(1769850000)) == 1769850000
