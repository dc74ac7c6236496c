"""Rows for every table of a state file, made from the tables themselves."""

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporter.storage.state import State, open_state

# Rows of a media and a merchant in each table, as `rows_by_table` reads them.
Rows = dict[str, list[tuple[Any, ...]]]


def tables_in(db: sqlite3.Connection) -> dict[str, list[tuple[str, str]]]:
    """Table -> name and type of its columns."""
    names = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {name: [(str(row[1]), str(row[2])) for row in db.execute(f"PRAGMA table_info({name})")] for name in names}


def fill(db: sqlite3.Connection, merchant_id: str, streams: range) -> None:
    """Give a merchant rows in every table, all of them different; its streams get these ids."""
    numbers = itertools.count(1)
    for table, columns in tables_in(db).items():
        # Each table has several rows, in another order than that of their texts.
        for stream_id in reversed(streams):
            values: list[object] = []
            for name, kind in columns:
                number = next(numbers)
                given = {"merchant_id": merchant_id, "stream_id": stream_id, "send_id": None, "label": "jp"}
                made = {
                    "TEXT": f"{name} {number}",
                    "INTEGER": number,
                    "REAL": number + 0.5,
                    "BLOB": bytes([number % 256]),
                }
                values.append(given[name] if name in given else made[kind])
            if table not in ("merchants", "budgets") or stream_id == streams[0]:
                db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def rows_by_table(db: sqlite3.Connection, merchant_id: str) -> Rows:
    """All rows of a merchant, with what its streams are in place of their ids."""
    found: Rows = {}
    for table, columns in tables_in(db).items():
        names = [name for name, _ in columns]
        shown = [f"{table}.{name}" for name in names if name not in ("stream_id", "send_id")]
        if "merchant_id" in names:
            query = f"SELECT {', '.join(shown)} FROM {table} WHERE merchant_id = ?"
        else:
            stream = "streams.media_id, streams.target, streams.grouping"
            query = (
                f"SELECT {stream}, {', '.join(shown)} FROM {table} JOIN streams USING (stream_id) WHERE merchant_id = ?"
            )
        # Requests are read in the order in which they were sent.
        rows = [tuple(row) for row in db.execute(query, (merchant_id,))]
        found[table] = rows if table == "sends" else sorted(rows)
    return found


def now() -> float:
    """When the state files of tests are opened."""
    return 1_750_000_000.0


@contextlib.contextmanager
def opened(path: Path) -> Iterator[State]:
    """Open a state file, which is whole."""
    with contextlib.closing(open_state(path, now)) as state:
        assert not state.salvaged
        yield state


def rows_of(path: Path, merchant_id: str) -> Rows:
    """What a state file, which is whole, has of a merchant."""
    with opened(path) as state, state.read() as db:
        return rows_by_table(db, merchant_id)
