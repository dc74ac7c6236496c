"""A copy of the state file, also of one that a running exporter writes."""

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

from exporter.errors import InputError, StateError
from exporter.storage.schema import READ_ERRORS, reason_of
from exporter.storage.state_file import StateFile, put, recognise

# An exporter can start or stop meanwhile, but not every time.
_TRIES = 3


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect to a state file without writing to it, or beside it; a running exporter goes on undisturbed.

    Raises:
        sqlite3.Error: It cannot be opened.
        OSError: As before.
    """
    real = path.resolve()
    # Without a WAL no process has the file open. SQLite would then make one, with the owner and rights of this process.
    unused = "" if _wal_of(real).exists() else "&immutable=1"
    return sqlite3.connect(f"{real.as_uri()}?mode=ro{unused}", uri=True, isolation_level=None)


def back_up(path: Path, output: Path) -> int:
    """Write a consistent copy of a state file. Whenever this is interrupted, there is the whole copy or none.

    Args:
        path: The state file.
        output: The copy, which must not exist.

    Returns:
        The size of the copy in bytes.

    Raises:
        InputError: The copy exists, or cannot be written there.
        StateError: There is no state file, or it cannot be read.
    """
    try:
        if not recognise(path):
            raise StateError(f"{path}: no state file to copy; name that of the exporter with --storage.path")
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}; check its name and permissions") from error
    if os.path.lexists(output):
        raise _is_there(output)
    try:
        # Its name is of this process alone, so that two backups at once cannot mix.
        descriptor, name = tempfile.mkstemp(prefix=f"{output.name}.", suffix=".partial", dir=output.parent)
    except OSError as error:
        raise InputError(f"{output}: cannot be created: {error.strerror}; check the folder and its rights") from error
    made = StateFile(output, Path(name), descriptor)
    try:
        _copy(path, made.real)
        put(made)
        return os.fstat(descriptor).st_size
    except FileExistsError:
        raise _is_there(output) from None
    except (*READ_ERRORS, OSError) as error:
        raise StateError(
            f"{path}: cannot be copied to {output} ({reason_of(error)}); check the rights, the free space and the disk"
        ) from error
    finally:
        os.close(descriptor)
        # After `put` there is no file of that name.
        made.real.unlink(missing_ok=True)


def _is_there(output: Path) -> InputError:
    return InputError(f"{output}: exists already, and is left as it is; delete it, or name another --output")


def _copy(path: Path, copy: Path) -> None:
    real = path.resolve()
    for _ in range(_TRIES):
        before = _stamp(real)
        with contextlib.closing(connect_read_only(path)) as db:
            db.execute("VACUUM INTO ?", (str(copy),))
        # With a WAL, SQLite reads all of it as it was at one moment. Without one, nobody must have written meanwhile.
        if before is None or _stamp(real) == before:
            break
        os.truncate(copy, 0)
    else:
        raise StateError(f"{path}: an exporter starts and stops again and again; try again when it runs")
    # Not read-only: then SQLite 3.40 does not look at CHECK constraints.
    with contextlib.closing(sqlite3.connect(copy)) as db:
        found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise StateError(f"{path}: is damaged, so it is not copied; start the exporter, which keeps what can be read")


def _stamp(real: Path) -> tuple[int, ...] | None:
    """What changes when a file without a WAL is written; None with a WAL."""
    if _wal_of(real).exists():
        return None
    info = real.stat()
    return info.st_ino, info.st_size, info.st_mtime_ns


def _wal_of(real: Path) -> Path:
    return real.with_name(real.name + "-wal")
