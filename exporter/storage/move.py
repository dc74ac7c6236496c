"""Moves what a state file has of one merchant to another state file.

The tables are found in the file itself: each row belongs to a merchant by its column `merchant_id`, or to one of the
merchant's streams by `stream_id`. Ids that a file gives to its rows are given anew.

The rows are committed to the new file first and removed from the old one then. After a kill between the two both have
them, and the same command finishes: rows that are the same are only removed. So nothing is lost at any moment.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import InputError, StateError, StateLocked
from exporter.storage.state import State, open_state
from exporter.storage.state_file import recognise

# What distinguishes a stream in any file.
_STREAM = "streams.merchant_id, streams.media_id, streams.target, streams.grouping"


@dataclass(frozen=True, slots=True)
class Table:
    """How the rows of a merchant are read from a table, written to it, and removed.

    Attributes:
        name: The table.
        columns: Its columns, without an id that the file gives.
        order: The order in which rows are read, and written.
        of_stream: Whether a row belongs to a stream, whose id differs from file to file.
    """

    name: str
    columns: tuple[str, ...]
    order: str
    of_stream: bool

    def select(self) -> str:
        """A query for the merchant's rows, without ids of the file: a stream is named by what it is."""
        columns = ", ".join(f"{self.name}.{column}" for column in self.columns)
        if not self.of_stream:
            return f"SELECT {columns} FROM {self.name} WHERE merchant_id = ? ORDER BY {self.order}"  # noqa: S608
        return (
            f"SELECT {_STREAM}, {columns} FROM {self.name} JOIN streams USING (stream_id) "  # noqa: S608
            f"WHERE streams.merchant_id = ? ORDER BY {_STREAM}, {self.order}"
        )

    def insert(self) -> str:
        """A statement that writes a row of `select`."""
        columns, values = ", ".join(self.columns), ", ".join("?" * len(self.columns))
        if not self.of_stream:
            return f"INSERT INTO {self.name} ({columns}) VALUES ({values})"  # noqa: S608
        stream = f"SELECT stream_id FROM streams WHERE ({_STREAM}) = (?, ?, ?, ?)"  # noqa: S608
        return f"INSERT INTO {self.name} (stream_id, {columns}) VALUES (({stream}), {values})"  # noqa: S608

    def delete(self) -> str:
        """A statement that removes the merchant's rows."""
        if not self.of_stream:
            return f"DELETE FROM {self.name} WHERE merchant_id = ?"  # noqa: S608
        streams = "SELECT stream_id FROM streams WHERE merchant_id = ?"
        return f"DELETE FROM {self.name} WHERE stream_id IN ({streams})"  # noqa: S608


def tables_of(db: sqlite3.Connection) -> tuple[Table, ...]:
    """The tables of a state file with rows of merchants; `streams` before those whose rows belong to one."""
    names = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return tuple(sorted((_table(db, name) for name in names), key=lambda table: table.of_stream))


def _table(db: sqlite3.Connection, name: str) -> Table:
    # Of each column: number, name, type, NOT NULL, default, and its place in the primary key.
    columns = db.execute(f"PRAGMA table_info({name})").fetchall()
    names = [str(column[1]) for column in columns]
    of_stream = "merchant_id" not in names
    key = [column for column in columns if column[5]]
    own = str(key[0][1]) if len(key) == 1 and key[0][2] == "INTEGER" else ""
    kept = tuple(each for each in names if each not in (own, *(["stream_id"] if of_stream else [])))
    # The order of ids is that of the rows' creation.
    return Table(name, kept, own or ", ".join(kept), of_stream)


def move_merchant(merchant_id: str, source: Path, target: Path) -> int | None:
    """Move everything of a merchant to another state file. No exporter may run with either.

    Args:
        merchant_id: The merchant.
        source: The state file that has it.
        target: The state file that gets it; created if missing.

    Returns:
        The number of its streams; None if it was moved before: only the new file has it.

    Raises:
        InputError: The files are the same, the merchant is not in the old one, or other state of it is in the new one.
        StateError: A file is in use, or cannot be used.
    """
    try:
        if not recognise(source):
            raise StateError(f"--from: {source}: no such state file; check its name")
        # Also by another link or name.
        if target.exists() and source.samefile(target):
            raise InputError("--to: is the same file as --from; name another one")
    except OSError as error:
        raise StateError(f"--from: {source}: cannot be read: {error.strerror}; check its permissions") from error
    with _opened(source, "--from") as old:
        if not _is_in(old, merchant_id) and target.exists():
            with _opened(target, "--to") as new:
                if _is_in(new, merchant_id):
                    return None
        _require_merchant(merchant_id, old)
        with _opened(target, "--to") as new:
            _copy(merchant_id, old, new)
        # The new file has everything, on the disk.
        return _remove(merchant_id, old)


@contextlib.contextmanager
def _opened(path: Path, flag: str) -> Iterator[State]:
    try:
        state = open_state(path, time.time)
    except StateLocked:
        raise StateLocked(f"{flag}: an exporter runs with {path}; stop it, and run this again") from None
    with contextlib.closing(state):
        if state.salvaged:
            raise StateError(
                f"{flag}: {path} was damaged, and what can be read is kept; run the exporter with it for some minutes, "
                "then run this again"
            )
        yield state


def _is_in(state: State, merchant_id: str) -> bool:
    with state.read() as db:
        return _has(db, merchant_id)


def _require_merchant(merchant_id: str, old: State) -> None:
    with old.read() as db:
        if not _has(db, merchant_id):
            known = ", ".join(str(each) for (each,) in db.execute("SELECT merchant_id FROM merchants")) or "none"
            raise InputError(f"--from: {old.path} has nothing of merchant {merchant_id}; its merchants: {known}")


def _has(db: sqlite3.Connection, merchant_id: str) -> bool:
    return any(db.execute(table.select(), (merchant_id,)).fetchone() for table in tables_of(db))


def _copy(merchant_id: str, old: State, new: State) -> None:
    with old.read() as source, new.transaction() as target:
        if _has(target, merchant_id):
            _require_same(merchant_id, old, new, source, target)
            return
        for table in tables_of(source):
            target.executemany(table.insert(), source.execute(table.select(), (merchant_id,)))


def _remove(merchant_id: str, old: State) -> int:
    with old.transaction() as db:
        (streams,) = db.execute("SELECT count(*) FROM streams WHERE merchant_id = ?", (merchant_id,)).fetchone()
        for table in reversed(tables_of(db)):
            db.execute(table.delete(), (merchant_id,))
    return int(streams)


def _require_same(
    merchant_id: str, old: State, new: State, source: sqlite3.Connection, target: sqlite3.Connection
) -> None:
    for table in tables_of(source):
        rows = [db.execute(table.select(), (merchant_id,)).fetchall() for db in (source, target)]
        if rows[0] != rows[1]:
            raise InputError(
                f"--to: {new.path} has other state of merchant {merchant_id} ({table.name}), so nothing is moved; "
                f"to use that of {old.path}, first move this one to a file of its own"
            )
