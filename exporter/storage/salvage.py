"""Recovery: copies what can still be read of a damaged state file into a new one.

The damaged file stays as it is: all is done to a copy. Where its header or the pages that say which table begins where
are damaged, they are made good: they are the same in each state file. Then each table is read from its start; where
that fails from its end, and stream by stream or media by media. So a damaged page costs what is on it. An inner page of
a table's tree costs all that is below it.

What is lost must not make plays be counted twice, nor a counter fall that could go on. The rows of one stream hang
together, so this is how a stream goes on that has lost some of them:

- A row of `series`: that counter begins again at 0. Prometheus takes this for a restart. The minutes that it has
  counted are not counted again, as `through` and the values of those minutes are known.
- Rows of `slots`: a minute whose value is not known would be counted again as a whole by the next answer. So the
  minutes counted so far are not revised any more. The totals go on; what late rows would have changed in them is lost.
  A value by day starts again: what comes until the next answer is lost.
- Its row in `streams`: where it stood is not known, so it goes on from now, and what was between is lost. Its id can be
  read from the index, so the totals continue. Without it the totals cannot be assigned, and all counters restart at 0.

There is no older copy to take rows from: a total of yesterday would fall below what was exported, and together with a
newer `through` it would lose the plays between, together with an older one count them twice.
"""

import contextlib
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.errors import StateError
from exporter.model import Group, Target, minute_of
from exporter.storage.schema import PAGE, READ_ERRORS, empty_file, schema_of, schema_pages
from exporter.storage.state_file import MODE, remove

# A row, read from the table and from the index.
_KNOWN_ALREADY = ("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID", "SQLITE_CONSTRAINT_UNIQUE")

_BY_DAY = frozenset(str(target) for target in Target if target.by_day)

# The order of counters that restart is unknown.
_LAST_PLACE = 10**6

_Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """How a table is read.

    Attributes:
        name: Its name.
        columns: Its columns, those of `part` first.
        part: How many columns name the stream, media or merchant that a row is of.
        order: What is the order of the rows in the file.
        loss: What is lost with the rows of one of them, in words.
    """

    name: str
    columns: tuple[str, ...]
    part: int
    order: str
    loss: str


_MERCHANTS = _Table(
    "merchants",
    (
        "merchant_id", "horizon", "lost_minutes", "revisions_up", "revisions_down", "series_resets", "longest_range",
        "longest_range_at", "removed_at",
    ),
    1, "merchant_id", "the number of its revisions and of its lost minutes",
)  # fmt: skip
_STREAMS = _Table(
    "streams",
    (
        "merchant_id", "media_id", "target", "grouping", "stream_id", "start", "through", "seen", "kept_from",
        "answered", "rate", "peak", "removed_at",
    ),
    4, "stream_id", "",
)  # fmt: skip
_SERIES = _Table(
    "series",
    ("stream_id", "label", "place", "total", "owed", "owed_since", "last", "shown"),
    1, "stream_id, label", "",
)  # fmt: skip
_SLOTS = _Table("slots", ("stream_id", "slot", "label", "value"), 1, "stream_id, slot, label", "")
_HELD = _Table("held", ("stream_id", "slot", "label", "value", "since"), 1, "stream_id, slot, label", "")
_MEDIA = _Table(
    "media",
    ("merchant_id", "media_id", "name", "ref_id", "encode_type", "live_event_id", "fetched_at"),
    2, "merchant_id, media_id", "names of media (they are looked up again)",
)  # fmt: skip
_TRACKS = _Table(
    "tracks",
    ("merchant_id", "media_id", "newest", "recent", "noise", "past_known"),
    2, "rowid", "media's plays for the drop detector (they are fetched again)",
)  # fmt: skip
_DAYS = _Table(
    "track_days",
    ("merchant_id", "media_id", "day", "steps"),
    2, "rowid", "media's plays of some days for the drop detector (they are fetched again)",
)  # fmt: skip
_BUDGETS = _Table(
    "budgets",
    ("merchant_id", "allowed", "grows_in", "held_for", "written_at", "boot", "ticks"),
    1, "merchant_id", "how much of its budget the API has refused",
)  # fmt: skip


@dataclass(slots=True)
class _Read:
    """What could be read of a table.

    Attributes:
        whole: Whether all of it could.
        broken: The streams, media or merchants of which rows are missing.
    """

    whole: bool = True
    broken: set[_Row] = field(default_factory=set)


def salvage(damaged: Path, new: sqlite3.Connection, now: float) -> str:
    """Copy what can be read, in one transaction, except the times of requests: the caller compensates for these.

    Args:
        damaged: The file. It is not changed, and no process may have it open.
        new: The new file, empty tables in it.
        now: Unix seconds.

    Returns:
        What is lost, in words.

    Raises:
        OSError: There is no room for a copy.
        StateError: The new file cannot be written.
        sqlite3.Error: As before.
    """
    work = damaged.with_name(damaged.name + ".salvage")
    remove(work)
    try:
        _copy(damaged, work)
        _mend(work)
        with _reading(work) as source:
            new.execute("BEGIN IMMEDIATE")
            lost = _carry(source, new, int(minute_of(now)))
            new.execute("COMMIT")
        return lost
    finally:
        remove(work)


# ---- repairing the copy ----


def _copy(damaged: Path, work: Path) -> None:
    for suffix in ("", "-wal"):
        source, target = damaged.with_name(damaged.name + suffix), work.with_name(work.name + suffix)
        if source.exists():
            with source.open("rb") as read, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, MODE), "wb") as write:
                shutil.copyfileobj(read, write)


def _mend(work: Path) -> None:
    _mend_header(work, journal=2)
    # The WAL is newer than the file. SQLite ignores its damaged frames.
    with contextlib.suppress(*READ_ERRORS), _reading(work) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        work.with_name(work.name + suffix).unlink(missing_ok=True)
    _mend_header(work, journal=1)
    try:
        with _reading(work) as db:
            readable = bool({name for _, name, _ in schema_of(db)} & {"streams", "series"})
    except READ_ERRORS:
        readable = False
    if not readable:
        template = empty_file()
        with work.open("r+b") as file:
            for page in schema_pages():
                file.seek((page - 1) * PAGE)
                file.write(template[(page - 1) * PAGE : page * PAGE])
        _mend_header(work, journal=1)


def _mend_header(work: Path, journal: int) -> None:
    """Repair the header of the file.

    Args:
        work: The file.
        journal: 2 where a WAL may be beside it, else 1.
    """
    pages = max(1, work.stat().st_size // PAGE)
    os.truncate(work, pages * PAGE)
    with work.open("r+b") as file:
        head = bytearray(file.read(100))
        head[:24] = empty_file()[:24]
        head[18:20] = bytes([journal, journal])
        # The number of pages is valid if these two agree. Free pages only matter for writing.
        head[24:28] = head[92:96]
        head[28:32] = pages.to_bytes(4, "big")
        head[32:40] = bytes(8)
        head[44:60] = empty_file()[44:60]
        file.seek(0)
        file.write(head)


@contextlib.contextmanager
def _reading(work: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(work, isolation_level=None)) as db:
        # Text that is not UTF-8 becomes NULL, which no text column accepts.
        db.text_factory = _text
        # The exporter creates no views and no triggers.
        db.execute("PRAGMA trusted_schema = OFF")
        yield db


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


# ---- the rows ----


def _carry(source: sqlite3.Connection, new: sqlite3.Connection, minute: int) -> str:
    lost: Counter[tuple[str, str]] = Counter()
    index = _index(source)
    streams = _read(source, new, _STREAMS, [key for _, key in index])
    from_now = _go_on_from(minute, index, new)
    keys: dict[object, tuple[str, str, str]] = {
        stream_id: (merchant_id, media_id, target)
        for stream_id, merchant_id, media_id, target in new.execute(
            "SELECT stream_id, merchant_id, media_id, target FROM streams"
        )
    }
    for stream_id in from_now:
        lost[keys[stream_id][0], "the plays of streams from the last that was counted until now"] += 1

    def of_known(row: _Row) -> bool:
        if row[0] in keys:
            return True
        strangers.add(row[0])
        return False

    strangers: set[object] = set()
    ids: list[_Row] = [(stream_id,) for stream_id in keys]
    series = _read(source, new, _SERIES, ids, of_known)
    if strangers:
        lost["", "counters of unknown streams (they restart at 0)"] = len(strangers)
    # Each stream without a group has exactly one series.
    missing = new.execute(
        "INSERT INTO series (stream_id, place, label) SELECT stream_id, 0, '' FROM streams WHERE grouping = ? "
        "AND stream_id NOT IN (SELECT stream_id FROM series WHERE label = '') RETURNING stream_id",
        (Group.ALL,),
    ).fetchall()
    for stream_id in _known(keys, series.broken.union(missing)):
        lost[keys[stream_id][0], "counters of streams (they restart at 0)"] += 1

    still = keys.keys() - from_now
    slots = _read(source, new, _SLOTS, ((stream_id,) for stream_id in still), lambda row: row[0] in still)
    # If the counter of a value is lost, it restarts at 0. Otherwise the label of the value is damaged.
    new.executemany(
        "INSERT INTO series (stream_id, place, label) SELECT DISTINCT stream_id, ?1, label FROM slots "
        "WHERE stream_id = ?2 AND label NOT IN (SELECT label FROM series WHERE stream_id = ?2)",
        [(_LAST_PLACE, stream_id) for stream_id in _known(still, series.broken)],
    )
    slots.broken.update(
        new.execute(
            "SELECT stream_id FROM (SELECT DISTINCT stream_id, label FROM slots "
            "EXCEPT SELECT stream_id, label FROM series)"
        ).fetchall()
    )
    for stream_id in _known(still, slots.broken):
        merchant_id, _, target = keys[stream_id]
        _revise_no_more(new, stream_id, by_day=target in _BY_DAY)
        lost[merchant_id, "late changes of what streams have counted"] += 1
    held = _read(source, new, _HELD, ((stream_id,) for stream_id in still), lambda row: row[0] in still)
    for stream_id in _known(still, held.broken):
        lost[keys[stream_id][0], "values that streams were to count later"] += 1

    reads = {"streams": streams, "series": series, "slots": slots, "held": held}
    media: set[_Row] = {(merchant_id, media_id) for merchant_id, media_id, _ in keys.values()}
    merchants: set[_Row] = {(merchant_id,) for merchant_id, _, _ in keys.values()}
    for table, parts in (
        (_MERCHANTS, merchants), (_MEDIA, media), (_TRACKS, media), (_DAYS, media), (_BUDGETS, merchants)
    ):  # fmt: skip
        read = reads[table.name] = _read(source, new, table, parts)
        for part in read.broken:
            lost[str(part[0] or ""), table.loss] += 1
    new.executemany("UPDATE tracks SET past_known = 0 WHERE merchant_id = ? AND media_id = ?", reads[_DAYS.name].broken)
    return _in_words(lost, [name for name, read in reads.items() if not read.whole and not read.broken])


def _known(streams: Container[object], rows: Iterable[_Row]) -> list[object]:
    return [stream_id for (stream_id,) in rows if stream_id in streams]


def _read(
    source: sqlite3.Connection,
    new: sqlite3.Connection,
    table: _Table,
    parts: Iterable[_Row],
    wanted: Callable[[_Row], bool] | None = None,
) -> _Read:
    """Copy the rows of a table.

    Args:
        source: The damaged file.
        new: The new one.
        table: Which.
        parts: The streams, media or merchants that can have rows.
        wanted: Whether a row is to be carried over; without it, all are.
    """
    read = _Read()
    columns = ", ".join(table.columns)
    insert = f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(table.columns))})"  # noqa: S608

    def scan(rest: str, values: Sequence[object] = ()) -> bool:
        try:
            for row in source.execute(f"SELECT {columns} FROM {table.name} {rest}", values):  # noqa: S608 - constants
                if (wanted is None or wanted(row)) and not _keep(new, insert, row):
                    read.broken.add(row[: table.part])
        except READ_ERRORS:
            return False
        return True

    hint = "NOT INDEXED " if table.order in ("rowid", "stream_id") else ""
    if scan(f"{hint}ORDER BY {table.order}"):
        return read
    read.whole = False
    scan(hint + "ORDER BY " + ", ".join(f"{column} DESC" for column in table.order.split(", ")))
    where = "WHERE " + " AND ".join(f"{column} = ?" for column in table.columns[: table.part])
    for part in parts:
        if not scan(where, part):
            scan(f"{where} ORDER BY {table.columns[table.part]} DESC", part)
            read.broken.add(part)
    return read


def _keep(new: sqlite3.Connection, insert: str, row: _Row) -> bool:
    """Write a row; False if its values are refused.

    Raises:
        StateError: The new file does not take it: no error of SQLite's, as those are taken for the damaged file's.
    """
    try:
        new.execute(insert, row)
    except sqlite3.IntegrityError as error:
        return error.sqlite_errorname in _KNOWN_ALREADY
    except sqlite3.Error as error:
        raise StateError(f"what can be read of the damaged state file cannot be written ({error})") from error
    return True


def _index(source: sqlite3.Connection) -> list[tuple[object, _Row]]:
    """The ids and keys of the streams, from the index."""
    found: dict[object, _Row] = {}
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{column} {direction}" for column in _STREAMS.columns[: _STREAMS.part])
        with contextlib.suppress(*READ_ERRORS):
            for stream_id, *key in source.execute(
                "SELECT stream_id, merchant_id, media_id, target, grouping FROM streams "  # noqa: S608 - constants
                f"INDEXED BY sqlite_autoindex_streams_1 ORDER BY {order}"
            ):
                found[stream_id] = tuple(key)
    return list(found.items())


def _go_on_from(minute: int, index: Iterable[tuple[object, _Row]], new: sqlite3.Connection) -> set[object]:
    """Continue the streams whose row is lost, and whose id is in the index, from a minute."""
    insert = (
        "INSERT INTO streams (stream_id, merchant_id, media_id, target, grouping, start, through, seen, kept_from) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    before = {stream_id for (stream_id,) in new.execute("SELECT stream_id FROM streams")}
    for stream_id, key in index:
        if stream_id not in before:
            _keep(new, insert, (stream_id, *key, minute, minute, minute, minute + 1))
    return {stream_id for (stream_id,) in new.execute("SELECT stream_id FROM streams")} - before


def _revise_no_more(new: sqlite3.Connection, stream_id: object, *, by_day: bool) -> None:
    new.execute("DELETE FROM slots WHERE stream_id = ?", (stream_id,))
    if by_day:
        # The next answer sets where counting starts.
        new.execute("UPDATE streams SET answered = 0 WHERE stream_id = ?", (stream_id,))
    else:
        new.execute("UPDATE streams SET kept_from = max(kept_from, through + 1) WHERE stream_id = ?", (stream_id,))


def _in_words(lost: Counter[tuple[str, str]], unknown: Sequence[str]) -> str:
    lines = [
        f"{loss} ({f'merchant {merchant_id}, ' if merchant_id else ''}{count})"
        for (merchant_id, loss), count in sorted(lost.items())
    ]
    lines += [f"perhaps some of {name}" for name in unknown]
    return "; ".join(lines) or "nothing"
