"""The layout of the state file: its tables, and a check for damage.

The tables stand here together, so that a migration has one place. What the readers rely on is said by the tables
themselves (STRICT, CHECK): a cell that damage has changed to something else is found when the file is opened, and no
reader has to look for it.
"""

import contextlib
import sqlite3
from functools import cache

from exporter.errors import StateDamaged, StateError

# In the header of each file, so that no other database is mistaken for one: "SSXE".
APPLICATION_ID = 0x53535845

SCHEMA_VERSION = 3

PAGE = 4096

# Characters of an error's text that are shown.
LONGEST_REASON = 200

# STRICT tables.
SQLITE_NEEDED = (3, 37)

# Errors while SQLite reads: its messages quote damaged text, and a damaged size can exceed the memory.
READ_ERRORS = (sqlite3.Error, UnicodeDecodeError, MemoryError)

# Valid minutes: up to the year 2350.
_MINUTES = "BETWEEN -1000000 AND 200000000"

# Since version 2.
_DROP_STATES = """
CREATE TABLE drop_states (                                   -- the verdict on a media, and its incidents
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (merchant_id, media_id)
) STRICT;
"""

# Since version 3.
_MEDIA_TAGS = """
CREATE TABLE media_tags (                                    -- the catalog's tags of a media, where it has any
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    tags TEXT NOT NULL,                                      -- one a line
    PRIMARY KEY (merchant_id, media_id)
) STRICT, WITHOUT ROWID;
"""

# SQLite keeps the text of each statement, comments inside it included, and `check` compares it. So any change inside a
# statement, even in a comment, makes existing files look damaged: change it only with a new SCHEMA_VERSION and a
# migration. In the comments, a "slot" is a bucket: a minute or a day.
_SCHEMA = f"""
CREATE TABLE merchants (
    merchant_id TEXT PRIMARY KEY,
    horizon INTEGER CHECK (horizon {_MINUTES}),              -- newest minute of which a row was seen
    lost_minutes INTEGER NOT NULL DEFAULT 0 CHECK (lost_minutes >= 0),
    revisions_up INTEGER NOT NULL DEFAULT 0 CHECK (revisions_up >= 0),
    revisions_down INTEGER NOT NULL DEFAULT 0 CHECK (revisions_down >= 0),
    series_resets INTEGER NOT NULL DEFAULT 0 CHECK (series_resets >= 0),
    longest_range INTEGER CHECK (longest_range > 0),         -- minutes that one request may ask for
    longest_range_at REAL,
    removed_at REAL
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    stream_id INTEGER PRIMARY KEY,
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    target TEXT NOT NULL,
    grouping TEXT NOT NULL,
    start INTEGER NOT NULL CHECK (start {_MINUTES}),         -- the minutes after it are counted
    through INTEGER NOT NULL CHECK (through {_MINUTES}),     -- the newest minute counted
    seen INTEGER NOT NULL CHECK (seen {_MINUTES}),           -- the newest counted because a row was there
    kept_from INTEGER NOT NULL CHECK (kept_from {_MINUTES}), -- the oldest slot whose value can still be revised
    answered INTEGER NOT NULL DEFAULT 0,
    rate REAL CHECK (rate BETWEEN 0 AND 1e15),               -- smoothed plays a minute, of streams that count plays
    peak INTEGER NOT NULL DEFAULT 0 CHECK (peak >= 0),       -- the largest value of a slot that has been counted
    removed_at REAL,
    UNIQUE (merchant_id, media_id, target, grouping)
) STRICT;

-- Values, totals and what is owed are whole millionths.
CREATE TABLE series (
    stream_id INTEGER NOT NULL,
    place INTEGER NOT NULL,                                  -- the order in which labels were first seen
    label TEXT NOT NULL,
    total INTEGER NOT NULL DEFAULT 0 CHECK (total >= 0),
    owed INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0),
    owed_since INTEGER CHECK (owed_since {_MINUTES}),        -- the newest minute counted when it last began to owe
    last INTEGER DEFAULT 0 CHECK (last >= 0),                -- the value in the minute `through`, where it is known
    shown INTEGER NOT NULL DEFAULT 0,                        -- whether its 0 has been on display for long enough
    PRIMARY KEY (stream_id, label)
) STRICT, WITHOUT ROWID;

CREATE TABLE slots (                                         -- values other than 0 that can still be revised
    stream_id INTEGER NOT NULL,
    slot INTEGER NOT NULL CHECK (slot {_MINUTES}),           -- the minute at which its minute or day starts
    label TEXT NOT NULL,
    value INTEGER NOT NULL CHECK (value > 0),
    PRIMARY KEY (stream_id, slot, label)
) STRICT, WITHOUT ROWID;

CREATE TABLE held (                                          -- values that the API shows and that are not counted yet
    stream_id INTEGER NOT NULL,
    slot INTEGER NOT NULL CHECK (slot {_MINUTES}),
    label TEXT NOT NULL,
    value INTEGER CHECK (value >= 0),                        -- where it can be used
    since INTEGER NOT NULL CHECK (since {_MINUTES}),         -- the newest counted when it was first shown so
    PRIMARY KEY (stream_id, slot, label)
) STRICT, WITHOUT ROWID;

CREATE TABLE media (
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    name TEXT NOT NULL,
    ref_id TEXT NOT NULL,
    encode_type TEXT NOT NULL,
    live_event_id TEXT NOT NULL,
    fetched_at REAL NOT NULL,
    PRIMARY KEY (merchant_id, media_id)
) STRICT, WITHOUT ROWID;

-- Plays as the drop detector sees them; the whole merchant's for the media ''.
CREATE TABLE tracks (
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    newest INTEGER CHECK (newest {_MINUTES}),                -- the newest minute
    recent BLOB NOT NULL,                                    -- the newest minutes, one by one
    noise BLOB NOT NULL,
    past_known INTEGER NOT NULL,                             -- whether the time before the first start was asked for
    PRIMARY KEY (merchant_id, media_id)
) STRICT;

CREATE TABLE track_days (
    merchant_id TEXT NOT NULL,
    media_id TEXT NOT NULL,
    day INTEGER NOT NULL CHECK (day BETWEEN -1000 AND 150000), -- Unix time // 86400
    steps BLOB NOT NULL,
    PRIMARY KEY (merchant_id, media_id, day)
) STRICT;

-- When something was done is kept by two clocks: by the wall clock, and by the monotonic one that began with the boot,
-- as after a restart of the process on a machine that ran on, only the second shows how long ago it was.
CREATE TABLE sends (
    send_id INTEGER PRIMARY KEY,
    merchant_id TEXT NOT NULL,
    sent_at REAL NOT NULL,
    boot TEXT NOT NULL,                                      -- the boot that `ticks` are of, '' where it is not known
    ticks REAL NOT NULL
) STRICT;

CREATE TABLE budgets (
    merchant_id TEXT PRIMARY KEY,
    allowed REAL NOT NULL CHECK (allowed BETWEEN 0 AND 1e6), -- requests a minute when they begin to be won back
    grows_in REAL NOT NULL,                                  -- seconds after `written_at`, or less than 0
    held_for REAL NOT NULL,                                  -- seconds after `written_at`
    written_at REAL NOT NULL,
    boot TEXT NOT NULL,
    ticks REAL NOT NULL
) STRICT, WITHOUT ROWID;

{_DROP_STATES}
{_MEDIA_TAGS}
-- Last, as VACUUM does: so each table begins on the same page in every file.
CREATE INDEX sends_by_merchant ON sends (merchant_id);
"""

# What a file of the version before gets, by that version.
_MIGRATIONS = {1: _DROP_STATES, 2: _MEDIA_TAGS}

# Columns with text that damage can make unreadable; those of `slots` are compared with those of `series`.
_TEXTS = {
    "merchants": "merchant_id",
    "streams": "merchant_id, media_id, target, grouping",
    "series": "label",
    "held": "label",
    "media": "merchant_id, media_id, name, ref_id, encode_type, live_event_id",
    "tracks": "merchant_id, media_id",
    "track_days": "merchant_id, media_id",
    "drop_states": "merchant_id, media_id",
    "media_tags": "merchant_id, media_id, tags",
    "sends": "merchant_id, boot",
    "budgets": "merchant_id, boot",
}

# Rows without a stream, and rows that readers expect beside others.
_BROKEN = {
    "counters of no stream": "SELECT 1 FROM series WHERE stream_id NOT IN (SELECT stream_id FROM streams)",
    "values of no counter": "SELECT 1 FROM slots WHERE NOT EXISTS (SELECT 1 FROM series "
    "WHERE series.stream_id = slots.stream_id AND series.label = slots.label)",
    "values of no stream": "SELECT 1 FROM held WHERE stream_id NOT IN (SELECT stream_id FROM streams)",
    "a stream without its counter": "SELECT stream_id FROM streams WHERE grouping = 'all' "
    "EXCEPT SELECT stream_id FROM series WHERE label = ''",
}


def create(db: sqlite3.Connection) -> None:
    """Create the tables of a new file. A kill leaves an empty file, never a database without its application id.

    The journal must be SQLite's first one, not the WAL: so the header, which identifies the file, is in the file
    itself and not beside it.

    Raises:
        sqlite3.Error: The file did not take it.
    """
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.executescript(
        f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; {_SCHEMA} "
        f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def migrate(db: sqlite3.Connection) -> None:
    """Bring a file of an older release to today's layout; a kill leaves it as it was.

    Raises:
        sqlite3.Error: The file did not take it.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    steps = [_MIGRATIONS[each] for each in range(version, SCHEMA_VERSION) if each in _MIGRATIONS]
    if not steps:
        return
    db.executescript(f"BEGIN IMMEDIATE; {' '.join(steps)} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    # So each table begins on the same page as in a new file.
    db.execute("VACUUM")


def check(db: sqlite3.Connection, name: str) -> None:
    """Check for damage.

    Args:
        db: The open file.
        name: How to call it in a message.

    Raises:
        StateError: A newer release wrote it.
        StateDamaged: It is not whole.
        sqlite3.Error: It could not be read, for that reason or another.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{name}: written by a newer release (its layout is {version}, this release knows {SCHEMA_VERSION}); "
            "install that release, or move the file away to start with a new one"
        )
    if version != SCHEMA_VERSION or not schema_of(db) >= _expected():
        raise StateDamaged("its tables are not as they were made")
    found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise StateDamaged(" ".join("; ".join(found).split()))
    for table, columns in _TEXTS.items():
        # SQLite does not check that text is UTF-8; reading it here does.
        for _ in db.execute(f"SELECT {columns} FROM {table}"):  # noqa: S608 - constants
            pass
    for what, statement in _BROKEN.items():
        if db.execute(f"{statement} LIMIT 1").fetchone() is not None:
            raise StateDamaged(what)


def schema_of(db: sqlite3.Connection) -> frozenset[tuple[str, str, str | None]]:
    """The tables and indexes of a file: kind, name and statement of each."""
    return frozenset(db.execute("SELECT type, name, sql FROM sqlite_schema"))


@cache
def empty_file() -> bytes:
    """The bytes of a new state file."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create(db)
        return bytes(db.serialize())


@cache
def schema_pages() -> tuple[int, ...]:
    """The pages, from 1, with the schema: the same in each state file."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create(db)
        roots = {root for (root,) in db.execute("SELECT rootpage FROM sqlite_schema")}
    return tuple(page for page in range(1, len(empty_file()) // PAGE + 1) if page not in roots)


def reason_of(error: BaseException) -> str:
    """An error's text, shortened: that of SQLite can quote a whole statement."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "..."


@cache
def _expected() -> frozenset[tuple[str, str, str | None]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create(db)
        return schema_of(db)
