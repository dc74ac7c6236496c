"""What a state file says, read beside the program that writes it."""

import contextlib
import sqlite3
from pathlib import Path

from exporter.model import MinuteRange
from exporter.units import UNIT


def minutes_counted(path: Path) -> tuple[int, MinuteRange]:
    """The plays of the whole merchant that a state file of one merchant has counted, and the minutes they are of."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        total, owed, start, through = db.execute(
            "SELECT total, owed, start, through FROM streams JOIN series USING (stream_id) "
            "WHERE media_id = '' AND target = 'play_count' AND grouping = 'all'"
        ).fetchone()
    return (total - owed) // UNIT, MinuteRange(start + 1, through)
