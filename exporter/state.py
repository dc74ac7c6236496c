"""The state file: one SQLite database, opened by one process, written by one connection.

Every change goes through `State.transaction`, which other modules use for their own tables. The tables stand
here together, so that a migration has one place.
"""

import contextlib
import fcntl
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import structlog

from exporter.errors import StateError, StateLocked, StateTooNew, StateWriteFailed

log = structlog.get_logger("state")

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE merchants (
    merchant_id TEXT PRIMARY KEY,
    horizon INTEGER,                         -- newest minute of which a row was seen
    lost_minutes INTEGER NOT NULL DEFAULT 0,
    revisions_up INTEGER NOT NULL DEFAULT 0,
    revisions_down INTEGER NOT NULL DEFAULT 0,
    series_resets INTEGER NOT NULL DEFAULT 0,
    longest_range INTEGER,                   -- minutes that one request may ask for, where the API set a limit
    longest_range_at REAL,
    removed_at REAL
) WITHOUT ROWID;

CREATE TABLE streams (
    stream_id INTEGER PRIMARY KEY,
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    target TEXT NOT NULL,
    grouping TEXT NOT NULL,
    start INTEGER NOT NULL,                  -- the minutes after it are counted
    through INTEGER NOT NULL,                -- the newest minute counted
    seen INTEGER NOT NULL,                   -- the newest minute counted because its row or a later one was there
    kept_from INTEGER NOT NULL,              -- the oldest slot whose value can still be revised
    answered INTEGER NOT NULL DEFAULT 0,
    rate REAL,                               -- smoothed plays a minute, of streams that count plays
    peak INTEGER NOT NULL DEFAULT 0,         -- the largest value of a slot that has been counted
    removed_at REAL,
    UNIQUE (merchant_id, media_id, target, grouping)
);

-- Values, totals and what is owed are whole millionths.
CREATE TABLE series (
    stream_id INTEGER NOT NULL,
    place INTEGER NOT NULL,                  -- the order in which labels were first seen
    label TEXT NOT NULL,
    total INTEGER NOT NULL DEFAULT 0,
    owed INTEGER NOT NULL DEFAULT 0,
    owed_since INTEGER,                      -- the newest minute counted when it last began to owe
    last INTEGER DEFAULT 0,                  -- the value in the minute `through`, where it is known
    shown INTEGER NOT NULL DEFAULT 0,        -- whether its 0 has been on display for long enough
    PRIMARY KEY (stream_id, label)
) WITHOUT ROWID;

CREATE TABLE slots (                         -- values other than 0 that can still be revised
    stream_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,                   -- the minute at which the row's minute or day starts
    label TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (stream_id, slot, label)
) WITHOUT ROWID;

CREATE TABLE held (                          -- values that the API shows and that are not counted yet
    stream_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    label TEXT NOT NULL,
    value INTEGER,                           -- where it can be used
    since INTEGER NOT NULL,                  -- the newest minute counted when it was first shown like that
    PRIMARY KEY (stream_id, slot, label)
) WITHOUT ROWID;

CREATE TABLE media (
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    name TEXT NOT NULL,
    ref_id TEXT NOT NULL,
    encode_type TEXT NOT NULL,
    live_event_id TEXT NOT NULL,
    fetched_at REAL NOT NULL,
    PRIMARY KEY (merchant_id, media_id)
) WITHOUT ROWID;

CREATE TABLE tracks (                        -- plays as the drop detector sees them; the whole merchant's for ''
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    newest INTEGER,                          -- the newest minute
    recent BLOB NOT NULL,                    -- the newest minutes, one by one
    noise BLOB NOT NULL,
    past_known INTEGER NOT NULL,             -- whether the time before the first start was asked for
    PRIMARY KEY (merchant_id, media_id)
);

CREATE TABLE track_days (
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    day INTEGER NOT NULL,                    -- Unix time // 86400
    steps BLOB NOT NULL,
    PRIMARY KEY (merchant_id, media_id, day)
);

CREATE TABLE sends (
    merchant_id TEXT NOT NULL,
    sent_at REAL NOT NULL
);
CREATE INDEX sends_by_merchant ON sends (merchant_id);

CREATE TABLE budgets (
    merchant_id TEXT PRIMARY KEY,
    allowed REAL NOT NULL,                   -- requests a minute at `since`
    since REAL NOT NULL,                     -- when they begin to be won back
    blocked_until REAL NOT NULL
) WITHOUT ROWID;
"""


class State:
    """An open state file.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path, lock_file: IO[bytes], db: sqlite3.Connection) -> None:
        self.path = path
        self._lock_file = lock_file
        self._db = db
        self._mutex = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction: all of the block is in the file after it, or nothing.

        Raises:
            StateWriteFailed: The file did not take it; nothing of the block is in the file.
        """
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise StateWriteFailed(
                    f"{self.path}: writing failed ({error}); nothing is lost, "
                    "but nothing is counted until the file can be written: check the disk"
                ) from error
            finally:
                # A full disk can end a transaction by itself, and rolling back then is an error of its own.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed."""
        with self._mutex:
            yield self._db

    def close(self) -> None:
        """Close the file and let other processes have it."""
        with self._mutex:
            self._db.close()
            self._lock_file.close()


def open_state(path: Path, now: Callable[[], float]) -> State:
    """Open the state file, or make it.

    A file that is damaged is renamed to `<path>.corrupt-<Unix time>` and a new one is begun.

    Raises:
        StateLocked: Another process holds it.
        StateTooNew: A newer release wrote it.
        StateError: It cannot be opened or written.
    """
    lock_file = _lock(path)
    try:
        try:
            db = _connect(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            aside = _set_aside(path, int(now()))
            log.warning(
                f"{path}: the state file is damaged ({error}); it is kept as {aside.name}, counting starts anew",
            )
            db = _connect(path)
    except BaseException as error:
        lock_file.close()
        if isinstance(error, sqlite3.Error | OSError):
            raise StateError(f"{path}: cannot use the state file ({error}); check the disk and the rights") from error
        raise
    return State(path, lock_file, db)


def _lock(path: Path) -> IO[bytes]:
    # SQLite's own lock would keep `plan` and the operator's sqlite3 from reading the file meanwhile.
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock_file = lock_path.open("ab")
    except OSError as error:
        raise StateError(
            f"{path}: cannot be made or opened here ({error.strerror}); "
            "give a folder that this user can write to with --storage.path"
        ) from error
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock_file.close()
        raise StateLocked(
            f"{path}: another smartstream-exporter uses this state file; "
            "stop it, or give this one its own with --storage.path"
        ) from error
    return lock_file


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # A counter that falls after a power cut would be read as a restart, and all of it counted again.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -16384")
        _check(db)
        _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError("; ".join(found))


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StateTooNew(
            f"{path}: written by a newer release (its layout is {version}, this release knows {SCHEMA_VERSION}); "
            "install that release, or move the file away to start anew"
        )
    if version < SCHEMA_VERSION:
        # The layout and its number in one transaction: a kill in between leaves neither.
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _set_aside(path: Path, now: int) -> Path:
    aside = path.with_name(f"{path.name}.corrupt-{now}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
