"""Recovery: copies what can still be read of a damaged state file into a new one.

The damaged file stays as it is: all is done to a copy. Where its header or the pages that say which table begins where
are damaged, they are replaced: they are the same in each state file. Then each table is read from its start; where that
fails, from its end, and stream by stream or media by media. So a damaged page costs what is on it. An inner page of a
table's tree costs all that is below it.

What is lost must not make plays be counted twice, nor a counter fall that could continue. The rows of one stream depend
on each other, so this is how a stream continues that has lost some of them:

- A row of `series`: that counter restarts at 0. Prometheus takes this for a restart. The minutes that it has
  counted are not counted again, as `through` and the values of those minutes are known.
- Rows of `slots`: a minute whose value is not known would be counted again as a whole by the next answer. So the
  minutes counted so far are not revised any more. The totals continue; what late rows would have changed in them is
  lost. A value by day starts again: what comes until the next answer is lost.
- Its row in `streams`: how far it was counted is not known, so it continues from now, and the plays between are lost.
  Its id can be read from the index, so the totals continue. Without it the totals cannot be assigned, and all counters
  restart at 0.

There is no older copy to take rows from: a total of yesterday would fall below what was exported, and together with a
newer `through` it would lose the plays between, together with an older one count them twice.
"""

import contextlib
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator
from operator import itemgetter
from pathlib import Path

from exporter.errors import StateError
from exporter.model import Group, Minute, Target, minute_of
from exporter.storage.schema import PAGE, READ_ERRORS, empty_file, schema_of, schema_pages
from exporter.storage.state_file import MODE, remove, remove_siblings

# A row was read twice: from the start and from the end, or by stream.
_KNOWN_ALREADY = ("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID", "SQLITE_CONSTRAINT_UNIQUE")

_BY_DAY = frozenset(str(target) for target in Target if target.by_day)

# The order of counters that restart is unknown.
_LAST_PLACE = 10**6

# Tables whose rows are in the order of their rowids. Those of the others are in the order of the primary key.
_WITH_ROWIDS = ("streams", "tracks", "track_days", "drop_states")

# Tables whose rows are of a media, and what is lost with rows of a media or a merchant.
_OF_MEDIA = ("media", "media_tags", "tracks", "track_days", "drop_states")
_LOSSES = {
    "merchants": "the number of its revisions and of its lost minutes",
    "media": "names of media (they are looked up again)",
    "media_tags": "tags of media (they are looked up again)",
    "tracks": "media's plays for the drop detector (they are fetched again)",
    "track_days": "media's plays of some days for the drop detector (they are fetched again)",
    "drop_states": "media's open and past incidents",
    "budgets": "how much of its budget the API has refused",
}

_Row = tuple[object, ...]


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
        _copy_file(damaged, work)
        _repair(work)
        with _reading(work) as source:
            new.execute("BEGIN IMMEDIATE")
            lost = _Rows(source, new).copy(minute_of(now))
            new.execute("COMMIT")
        return lost
    finally:
        remove(work)


# ---- repairing the copy ----


def _copy_file(damaged: Path, work: Path) -> None:
    for suffix in ("", "-wal"):
        source, target = damaged.with_name(damaged.name + suffix), work.with_name(work.name + suffix)
        if source.exists():
            target.touch(MODE)
            shutil.copyfile(source, target)


def _repair(work: Path) -> None:
    _repair_header(work, journal=2)
    # The WAL is newer than the file. SQLite ignores its damaged frames.
    with contextlib.suppress(*READ_ERRORS), _reading(work) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    remove_siblings(work)
    _repair_header(work, journal=1)
    with contextlib.suppress(*READ_ERRORS), _reading(work) as db:
        if not {"streams", "series"}.isdisjoint(name for _, name, _ in schema_of(db)):
            return
    template = empty_file()
    with work.open("r+b") as file:
        for page in schema_pages():
            file.seek((page - 1) * PAGE)
            file.write(template[(page - 1) * PAGE : page * PAGE])
    _repair_header(work, journal=1)


def _repair_header(work: Path, journal: int) -> None:
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


class _Rows:
    """The rows of the damaged file, copied into the new one."""

    def __init__(self, source: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self._source = source
        self._new = new
        # Merchant and what is lost -> of how many streams or media.
        self._lost: Counter[tuple[str, str]] = Counter()
        # Stream id -> merchant, media and target.
        self._streams: dict[object, tuple[str, str, str]] = {}
        # By table: the streams, media or merchants of which rows are missing. Which ones can be unknown.
        self._broken: dict[str, set[_Row]] = {}
        self._incomplete: list[str] = []

    def copy(self, minute: Minute) -> str:
        """Copy what can be read.

        Args:
            minute: Streams whose row is lost continue from it.

        Returns:
            What is lost, in words.
        """
        continued = self._copy_streams(minute)
        self._copy_series()
        # A stream that continues from now has no values that can be revised.
        revisable = self._streams.keys() - continued
        self._copy_slots(revisable)
        self._copy_table("held", ((stream_id,) for stream_id in revisable), revisable)
        self._note("values that streams were to count later", self._broken_streams("held", revisable))
        media: set[_Row] = {(merchant_id, media_id) for merchant_id, media_id, _ in self._streams.values()}
        merchants: set[_Row] = {(merchant_id,) for merchant_id, _, _ in self._streams.values()}
        for table, loss in _LOSSES.items():
            self._copy_table(table, media if table in _OF_MEDIA else merchants)
            for merchant_id, *_ in self._broken[table]:
                self._lost[str(merchant_id or ""), loss] += 1
        self._new.executemany(
            "UPDATE tracks SET past_known = 0 WHERE merchant_id = ? AND media_id = ?", self._broken["track_days"]
        )
        return self._describe()

    def _copy_streams(self, minute: Minute) -> set[object]:
        """Copy the streams, and continue those from a minute whose row is lost but whose id is in the index.

        Returns:
            The ids of these.
        """
        index = self._read_index()
        self._copy_table("streams", ((stream_id,) for stream_id in index))
        copied = {stream_id for (stream_id,) in self._new.execute("SELECT stream_id FROM streams")}
        insert = (
            "INSERT INTO streams (stream_id, merchant_id, media_id, target, grouping, start, through, seen, kept_from) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        for stream_id, key in index.items():
            if stream_id not in copied:
                self._insert(insert, (stream_id, *key, minute, minute, minute, minute + 1))
        for stream_id, *names in self._new.execute("SELECT stream_id, merchant_id, media_id, target FROM streams"):
            self._streams[stream_id] = tuple(names)
        continued = self._streams.keys() - copied
        self._note("the plays of streams from the last that was counted until now", continued)
        return continued

    def _read_index(self) -> dict[object, _Row]:
        """The id and the key of each stream, from the index."""
        found: dict[object, _Row] = {}
        for direction in ("ASC", "DESC"):
            with contextlib.suppress(*READ_ERRORS):
                for stream_id, *key in self._source.execute(
                    "SELECT stream_id, merchant_id, media_id, target, grouping "  # noqa: S608 - constants
                    "FROM streams INDEXED BY sqlite_autoindex_streams_1 ORDER BY "
                    f"merchant_id {direction}, media_id {direction}, target {direction}, grouping {direction}"
                ):
                    found[stream_id] = tuple(key)
        return found

    def _copy_series(self) -> None:
        self._copy_table("series", ((stream_id,) for stream_id in self._streams))
        unknown = {row for row in self._broken["series"] if row[0] not in self._streams}
        unknown.update(
            self._new.execute(
                "DELETE FROM series WHERE stream_id NOT IN (SELECT stream_id FROM streams) RETURNING stream_id"
            ).fetchall()
        )
        if unknown:
            self._lost["", "counters of unknown streams (they restart at 0)"] = len(unknown)
        # Each stream without a group has exactly one series.
        missing = self._new.execute(
            "INSERT INTO series (stream_id, place, label) SELECT stream_id, 0, '' FROM streams WHERE grouping = ? "
            "AND stream_id NOT IN (SELECT stream_id FROM series WHERE label = '') RETURNING stream_id",
            (Group.ALL,),
        ).fetchall()
        restarted = {stream_id for (stream_id,) in missing}.union(self._broken_streams("series", self._streams))
        self._note("counters of streams (they restart at 0)", restarted)

    def _copy_slots(self, revisable: Collection[object]) -> None:
        self._copy_table("slots", ((stream_id,) for stream_id in revisable), revisable)
        # If the counter of a value is lost, it restarts at 0. Otherwise the label of the value is damaged.
        self._new.executemany(
            "INSERT INTO series (stream_id, place, label) SELECT DISTINCT stream_id, ?1, label FROM slots "
            "WHERE stream_id = ?2 AND label NOT IN (SELECT label FROM series WHERE stream_id = ?2)",
            [(_LAST_PLACE, stream_id) for stream_id in self._broken_streams("series", revisable)],
        )
        self._broken["slots"].update(
            self._new.execute(
                "SELECT stream_id FROM (SELECT DISTINCT stream_id, label FROM slots "
                "EXCEPT SELECT stream_id, label FROM series)"
            ).fetchall()
        )
        broken = self._broken_streams("slots", revisable)
        for stream_id in broken:
            self._stop_revisions(stream_id)
        self._note("late changes of what streams have counted", broken)

    def _stop_revisions(self, stream_id: object) -> None:
        self._new.execute("DELETE FROM slots WHERE stream_id = ?", (stream_id,))
        # Of values by day, the next answer sets where counting starts.
        by_day = self._streams[stream_id][2] in _BY_DAY
        change = "answered = 0" if by_day else "kept_from = max(kept_from, through + 1)"
        self._new.execute(f"UPDATE streams SET {change} WHERE stream_id = ?", (stream_id,))  # noqa: S608 - constants

    # ---- one table ----

    def _copy_table(self, name: str, owners: Iterable[_Row], only: Container[object] | None = None) -> None:
        """Copy the rows of a table.

        Args:
            name: Its name.
            owners: The streams, media or merchants that can have rows.
            only: The streams whose rows are copied; without it, all are.
        """
        names, owner_columns, rest = self._columns(name)
        broken = self._broken[name] = set()
        columns = ", ".join(names)
        insert = f"INSERT INTO {name} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608

        def scan(order: str, values: _Row = ()) -> bool:
            try:
                for row in self._source.execute(f"SELECT {columns} FROM {name} {order}", values):  # noqa: S608 - constants
                    if (only is None or row[0] in only) and not self._insert(insert, row):
                        broken.add(row[: len(owner_columns)])
            except READ_ERRORS:
                return False
            return True

        hint, order = ("NOT INDEXED", ["rowid"]) if name in _WITH_ROWIDS else ("", owner_columns + rest)
        if scan(f"{hint} ORDER BY {', '.join(order)}"):
            return
        self._incomplete.append(name)
        scan(f"{hint} ORDER BY {' DESC, '.join(order)} DESC")
        where = "WHERE " + " AND ".join(f"{column} = ?" for column in owner_columns)
        for owner in owners:
            if not scan(where, owner):
                broken.add(owner)
                if rest:
                    scan(f"{where} ORDER BY {rest[0]} DESC", owner)

    def _columns(self, name: str) -> tuple[list[str], list[str], list[str]]:
        """The columns of a table.

        Returns:
            All; the first ones, which name the stream, media or merchant that a row is of; the other ones of the key.
        """
        columns = self._new.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
        key = [column for column, place in sorted(columns, key=itemgetter(1)) if place]
        owner = 2 if name in _OF_MEDIA else 1
        return [column for column, _ in columns], key[:owner], key[owner:]

    def _insert(self, statement: str, row: _Row) -> bool:
        """Write a row; False if its values are refused.

        Raises:
            StateError: The new file does not take it: no error of SQLite's, as those are taken for the damaged file's.
        """
        try:
            self._new.execute(statement, row)
        except sqlite3.IntegrityError as error:
            return error.sqlite_errorname in _KNOWN_ALREADY
        except sqlite3.Error as error:
            raise StateError(f"what can be read of the damaged state file cannot be written ({error})") from error
        return True

    # ---- what is lost ----

    def _broken_streams(self, table: str, among: Container[object]) -> list[object]:
        return [stream_id for (stream_id,) in self._broken[table] if stream_id in among]

    def _note(self, loss: str, stream_ids: Iterable[object]) -> None:
        self._lost.update((self._streams[stream_id][0], loss) for stream_id in stream_ids)

    def _describe(self) -> str:
        lines = [
            f"{loss} ({f'merchant {merchant_id}, ' if merchant_id else ''}{count})"
            for (merchant_id, loss), count in sorted(self._lost.items())
        ]
        lines += [f"perhaps some of {name}" for name in self._incomplete if not self._broken[name]]
        return "; ".join(lines) or "nothing"
