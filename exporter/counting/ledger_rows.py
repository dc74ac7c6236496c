"""The ledger's rows in the state file. Each function runs in its caller's transaction.

In the file, the table of buckets is named `slots`.
"""

import contextlib
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from exporter.counting.accounts import Account, Entry, StreamLedger, StreamRow
from exporter.counting.held import Cell, Held
from exporter.errors import StateError
from exporter.model import Group, Minute, Stream, Target
from exporter.storage.backup import connect_read_only
from exporter.storage.schema import READ_ERRORS, reason_of
from exporter.storage.state_file import recognise
from exporter.units import from_units
from exporter.views import Series


@dataclass(frozen=True, slots=True)
class MerchantRow:
    """What is stored for a merchant.

    Attributes:
        horizon: The newest minute for which it has had a row, or None.
        lost_minutes: Minutes, summed over the streams, that were too old to be caught up or had no usable value.
        revisions_up: Counted values that rose.
        revisions_down: Counted values that fell.
        series_resets: Counters that reset to 0.
        longest_range: Minutes that one request may ask for, or None if no limit is known.
        longest_range_at: When the limit was found (Unix seconds).
    """

    horizon: Minute | None = None
    lost_minutes: int = 0
    revisions_up: int = 0
    revisions_down: int = 0
    series_resets: int = 0
    longest_range: int | None = None
    longest_range_at: float = 0.0


def begin_merchant(db: sqlite3.Connection, merchant_id: str) -> MerchantRow:
    """Read a merchant's row, or create it."""
    row = db.execute(
        "INSERT INTO merchants (merchant_id) VALUES (?) ON CONFLICT DO UPDATE SET removed_at = NULL "
        "RETURNING horizon, lost_minutes, revisions_up, revisions_down, series_resets, longest_range, "
        "coalesce(longest_range_at, 0.0)",
        (merchant_id,),
    ).fetchone()
    return MerchantRow(*row)


def write_merchant(db: sqlite3.Connection, merchant_id: str, row: MerchantRow) -> None:
    """Write a merchant's row."""
    db.execute(
        "UPDATE merchants SET horizon = ?, lost_minutes = ?, revisions_up = ?, revisions_down = ?, "
        "series_resets = ?, longest_range = ?, longest_range_at = ? WHERE merchant_id = ?",
        (*astuple(row), merchant_id),
    )


def begin_stream(db: sqlite3.Connection, stream: Stream, start: Minute) -> StreamRow:
    """Read a stream's row, or create one that counts the minutes after `start`."""
    row = db.execute(
        "INSERT INTO streams (merchant_id, media_id, target, grouping, start, through, seen, kept_from) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET removed_at = NULL "
        "RETURNING stream_id, start, through, seen, kept_from, answered, rate, peak",
        (stream.merchant_id, stream.media_id, stream.target, stream.group, start, start, start, start + 1),
    ).fetchone()
    stream_id, started, through, seen, kept_from, answered, rate, peak = row
    if stream.group is Group.ALL:
        db.execute(
            "INSERT INTO series (stream_id, place, label) VALUES (?, 0, '') ON CONFLICT DO NOTHING", (stream_id,)
        )
    values = db.execute("SELECT slot, label, value, since FROM held WHERE stream_id = ?", (stream_id,))
    held = {(slot, label): Held(value, since) for slot, label, value, since in values}
    return StreamRow(stream_id, started, through, seen, kept_from, bool(answered), rate, peak, held)


def write_stream(db: sqlite3.Connection, row: StreamRow) -> None:
    """Write a stream's row, except for its held values."""
    db.execute(
        "UPDATE streams SET start = ?, through = ?, seen = ?, kept_from = ?, answered = ?, rate = ?, peak = ? "
        "WHERE stream_id = ?",
        (row.start, row.through, row.seen, row.kept_from, row.answered, row.rate, row.peak, row.stream_id),
    )


def mark_removed(db: sqlite3.Connection, streams: Iterable[Stream], merchant_ids: Iterable[str], now: float) -> None:
    """Mark all other streams and merchants as removed from the configuration at `now` (Unix seconds)."""
    wanted = {(s.merchant_id, s.media_id, str(s.target), str(s.group)) for s in streams}
    rows = db.execute(
        "SELECT stream_id, merchant_id, media_id, target, grouping FROM streams WHERE removed_at IS NULL"
    ).fetchall()
    gone = [(now, stream_id) for stream_id, *key in rows if tuple(key) not in wanted]
    db.executemany("UPDATE streams SET removed_at = ? WHERE stream_id = ?", gone)
    known = set(merchant_ids)
    merchants = db.execute("SELECT merchant_id FROM merchants WHERE removed_at IS NULL").fetchall()
    db.executemany(
        "UPDATE merchants SET removed_at = ? WHERE merchant_id = ?",
        [(now, merchant_id) for (merchant_id,) in merchants if merchant_id not in known],
    )


def forget_removed(db: sqlite3.Connection, before: float) -> None:
    """Delete what was removed from the configuration before an instant (Unix seconds)."""
    gone = "(SELECT stream_id FROM streams WHERE removed_at < ?)"
    for table in ("slots", "held", "series"):
        db.execute(f"DELETE FROM {table} WHERE stream_id IN {gone}", (before,))  # noqa: S608 - constants
    db.execute("DELETE FROM streams WHERE removed_at < ?", (before,))
    db.execute("DELETE FROM merchants WHERE removed_at < ?", (before,))
    for table in ("media", "media_tags", "tracks", "track_days"):
        db.execute(
            f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM streams "  # noqa: S608 - constants
            f"WHERE streams.merchant_id = {table}.merchant_id AND streams.media_id = {table}.media_id)"
        )
    for table in ("sends", "budgets"):
        db.execute(f"DELETE FROM {table} WHERE merchant_id NOT IN (SELECT merchant_id FROM merchants)")  # noqa: S608 - constants


def read_ledger(db: sqlite3.Connection, stream: Stream, row: StreamRow) -> StreamLedger:
    """Read what a stream has counted."""
    accounts = {
        label: Account(total, owed, owed_since)
        for label, total, owed, owed_since in db.execute(
            "SELECT label, total, owed, owed_since FROM series WHERE stream_id = ? ORDER BY place", (row.stream_id,)
        )
    }
    buckets: dict[Minute, dict[str, int]] = {}
    for slot, label, value in db.execute("SELECT slot, label, value FROM slots WHERE stream_id = ?", (row.stream_id,)):
        buckets.setdefault(slot, {})[label] = value
    return StreamLedger(stream.target, row, buckets, accounts)


def write_entry(db: sqlite3.Connection, before: StreamLedger, entry: Entry) -> None:
    """Write what an answer changes in a stream's series, buckets and held values; the caller writes its row."""
    row = entry.row
    stream_id = row.stream_id
    db.executemany(
        "INSERT INTO series (stream_id, place, label, total, owed, owed_since) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET total = excluded.total, owed = excluded.owed, owed_since = excluded.owed_since",
        [
            (stream_id, len(before.accounts) + place, label, account.total, account.owed, account.owed_since)
            for place, (label, account) in enumerate(entry.accounts.items())
        ],
    )
    db.executemany(
        "DELETE FROM slots WHERE stream_id = ? AND slot = ? AND label = ?",
        [(stream_id, change.bucket, change.label) for change in entry.changes if not change.value],
    )
    db.executemany(
        "INSERT OR REPLACE INTO slots (stream_id, slot, label, value) VALUES (?, ?, ?, ?)",
        [(stream_id, change.bucket, change.label, change.value) for change in entry.changes if change.value],
    )
    if row.kept_from != before.row.kept_from:
        db.execute("DELETE FROM slots WHERE stream_id = ? AND slot < ?", (stream_id, row.kept_from))
    # A counter that is reset shows its 0 for a while, like a new one.
    db.executemany(
        "UPDATE series SET shown = 0 WHERE stream_id = ? AND label = ?",
        [(stream_id, label) for label in entry.resets],
    )
    _write_held(db, before.row.held, row)
    if entry.last is not None:
        db.executemany(
            "UPDATE series SET last = ? WHERE stream_id = ? AND label = ? AND last IS NOT ?",
            [(value, stream_id, label, value) for label, value in entry.last.items()],
        )


def _write_held(db: sqlite3.Connection, before: Mapping[Cell, Held], row: StreamRow) -> None:
    db.executemany(
        "DELETE FROM held WHERE stream_id = ? AND slot = ? AND label = ?",
        [(row.stream_id, *cell) for cell in before.keys() - row.held.keys()],
    )
    db.executemany(
        "INSERT OR REPLACE INTO held (stream_id, slot, label, value, since) VALUES (?, ?, ?, ?, ?)",
        [(row.stream_id, *cell, held.value, held.since) for cell, held in row.held.items() if before.get(cell) != held],
    )


def show_series(db: sqlite3.Connection, stream_id: int, labels: Iterable[str]) -> None:
    """Mark series whose 0 has been exposed for long enough."""
    db.executemany(
        "UPDATE series SET shown = 1 WHERE stream_id = ? AND label = ?",
        [(stream_id, label) for label in labels],
    )


def unshown_labels(db: sqlite3.Connection, stream_id: int) -> tuple[str, ...]:
    """The label values whose 0 has not been exposed for long enough."""
    return tuple(
        label for (label,) in db.execute("SELECT label FROM series WHERE stream_id = ? AND shown = 0", (stream_id,))
    )


def read_rates(path: Path) -> dict[str, dict[str, float]]:
    """The smoothed plays a minute in a state file, which a running exporter may be writing.

    Returns:
        By merchant and media id, "" for the whole merchant; empty if there is no file, or an empty one.

    Raises:
        StateError: The file cannot be read, or is not a state file.
    """
    rates: dict[str, dict[str, float]] = {}
    try:
        if not recognise(path):
            return {}
        with contextlib.closing(connect_read_only(path)) as db:
            for merchant_id, media_id, rate in db.execute(
                "SELECT merchant_id, media_id, rate FROM streams "
                "WHERE rate IS NOT NULL AND target = ? AND grouping = ?",
                (Target.PLAY_COUNT, Group.ALL),
            ):
                rates.setdefault(merchant_id, {})[media_id] = rate
    except (*READ_ERRORS, OSError) as error:
        raise StateError(
            f"{path}: the state file cannot be read ({reason_of(error)}); "
            "check the rights, and that the exporter starts with it"
        ) from error
    return rates


def read_series(db: sqlite3.Connection, stream: Stream, row: StreamRow) -> Series:
    """Read a stream's series as they are exposed."""
    gauge, summable = row.answered and not stream.target.by_day, stream.target.summable
    rows = db.execute(
        "SELECT label, total, last, shown FROM series WHERE stream_id = ? ORDER BY place", (row.stream_id,)
    ).fetchall()
    return Series(
        # Of thousands of streams, many have the same.
        (sys.intern(label) for label, *_ in rows),
        ((from_units(total) if shown else 0.0) if summable else None for _, total, _, shown in rows),
        (from_units(last) if gauge and last is not None else None for _, _, last, _ in rows),
    )
