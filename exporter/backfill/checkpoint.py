"""The data that `backfill` has fetched so far, in a small SQLite file, so that an interrupted run can resume."""

import contextlib
import json
import sqlite3
import sys
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exporter.errors import InputError
from exporter.model import Minute, MinuteRange

# Increment it when a release changes how the tables are read or filled.
_LAYOUT = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS arguments (text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS progress (
    stream INTEGER PRIMARY KEY,
    next INTEGER NOT NULL,                   -- the minutes before it are fetched
    left_out INTEGER NOT NULL DEFAULT 0      -- whether the API has no history of the stream
);
CREATE TABLE IF NOT EXISTS labels (
    stream INTEGER NOT NULL,
    place INTEGER NOT NULL,                  -- the order in which labels were first seen
    label TEXT NOT NULL,
    PRIMARY KEY (stream, label)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    stream INTEGER NOT NULL,
    label TEXT NOT NULL,
    first INTEGER NOT NULL,
    minutes BLOB NOT NULL,                   -- a double for each minute from `first` on, compressed
    PRIMARY KEY (stream, label, first)
) WITHOUT ROWID;
"""


class Checkpoint:
    """An open checkpoint file. A stream is identified by its index in the list of streams in the arguments.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    def progress(self) -> Mapping[int, Minute]:
        """The first minute that is not fetched, by stream; a stream that is not there has not begun."""
        return dict(self._db.execute("SELECT stream, next FROM progress"))

    def left_out(self) -> frozenset[int]:
        """The streams of which the API has no history."""
        return frozenset(stream for (stream,) in self._db.execute("SELECT stream FROM progress WHERE left_out"))

    def labels(self, stream: int) -> Sequence[str]:
        """A stream's label values in the order in which they were first seen."""
        rows = self._db.execute("SELECT label FROM labels WHERE stream = ? ORDER BY place", (stream,))
        return [label for (label,) in rows]

    def add(self, stream: int, minutes: MinuteRange, values: Mapping[str, Sequence[float]]) -> None:
        """Add what was fetched: by label value, a number for each of the minutes; new label values last."""
        known = set(self.labels(stream))
        new = [label for label in values if label not in known]
        packed = {label: zlib.compress(array("d", column).tobytes(), 1) for label, column in values.items()}
        with self._db:
            self._db.executemany(
                "INSERT INTO labels VALUES (?, ?, ?)",
                [(stream, len(known) + place, label) for place, label in enumerate(new)],
            )
            self._db.executemany(
                "INSERT INTO parts VALUES (?, ?, ?, ?)",
                [(stream, label, minutes.first, column) for label, column in packed.items()],
            )
            self._db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, 0)", (stream, minutes.last + 1))

    def leave_out(self, stream: int, minutes: MinuteRange) -> None:
        """Note that the API has no history of a stream."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, 1)", (stream, minutes.last + 1))

    def parts(self, stream: int, label: str) -> Iterator[tuple[Minute, Sequence[float]]]:
        """The values of a label value: runs of minutes, each with its first, oldest first."""
        query = "SELECT first, minutes FROM parts WHERE stream = ? AND label = ? ORDER BY first"
        for first, packed in self._db.execute(query, (stream, label)):
            yield first, array("d", zlib.decompress(packed))

    def remove(self) -> None:
        """Close it and delete it."""
        self._db.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_checkpoint(path: Path, arguments: Mapping[str, object]) -> Iterator[Checkpoint]:
    """Open the checkpoint file, or create it.

    Args:
        path: Where it is.
        arguments: Everything that determines what is fetched.

    Raises:
        InputError: It cannot be created, read or written, also later, or belongs to other arguments.
    """
    text = json.dumps([_LAYOUT, sys.byteorder, arguments], sort_keys=True)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=1)) as db:
            db.executescript(_SCHEMA)
            found = db.execute("SELECT text FROM arguments").fetchone()
            if found is None:
                with db:
                    db.execute("INSERT INTO arguments VALUES (?)", (text,))
            elif found != (text,):
                raise InputError(
                    f"{path}: started with another period or configuration; continue with those, "
                    "or delete the file to start again"
                )
            yield Checkpoint(path, db)
    except sqlite3.Error as error:
        # No other library's: the state file maps its own.
        raise InputError(
            f"{path}: cannot be used as the checkpoint file ({error}); check the disk and the folder"
        ) from error
