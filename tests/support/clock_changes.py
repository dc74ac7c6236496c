"""Changes of local time: daylight saving time starts and ends, in zones with unusual rules."""

from datetime import UTC, datetime

from exporter.model import Minute, minute_of


def utc(*when: int) -> Minute:
    """The minute of a UTC time: year, month, day, hour, minute."""
    return minute_of(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[misc, arg-type]


# Time zone, first minute that repeats a local time, number of repeated minutes.
REPEATS = [
    ("America/New_York", utc(2026, 11, 1, 6, 0), 60),
    ("Europe/Berlin", utc(2026, 10, 25, 1, 0), 60),
    ("Australia/Lord_Howe", utc(2026, 4, 4, 15, 0), 30),
    ("Asia/Beirut", utc(2026, 10, 24, 21, 0), 60),  # from midnight back to 23:00
    ("Atlantic/Azores", utc(2026, 10, 25, 1, 0), 60),  # from 1:00 back to midnight
]
# Time zone, first minute after the clocks go forward.
GAPS = [
    ("America/New_York", utc(2026, 3, 8, 7, 0)),
    ("Europe/Berlin", utc(2026, 3, 29, 1, 0)),
    ("Australia/Lord_Howe", utc(2026, 10, 3, 15, 30)),
    ("Asia/Beirut", utc(2026, 3, 28, 22, 0)),  # a day without a midnight
]
# Time zone and minute of every change.
CHANGES = [(zone, change) for zone, change, _ in REPEATS] + GAPS
