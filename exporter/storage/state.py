"""The state file: one SQLite database, opened by one process, written by one connection.

Every change goes through `State.transaction`, which other modules use for their own tables.
"""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from exporter.errors import StateDamaged, StateError, StateWriteFailed
from exporter.storage import schema, state_file
from exporter.storage.salvage import salvage
from exporter.storage.state_file import Place, StateFile
from exporter.views import ProblemView, Subject

log = structlog.get_logger("state")

# A write that waits longer for a hanging disk is reported (seconds).
LONGEST_WRITE = 60.0

# Seconds for which the heartbeat waits for a write to end.
PROBE_WAIT = 1.0

# A problem that is back within so many seconds has not ended: on a full disk, small writes succeed now and then.
SAME_PROBLEM = 60.0

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

# Errors of the environment, not of the content of the file.
_ENVIRONMENT = (
    *_BUSY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
)

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)


# With fewer free bytes nothing can be opened: SQLite's index of its log alone takes 32 KiB.
FULL = 64 * 1024

_EMPTIED = "something has emptied it"


class State:
    """An open state file. Thread-safe.

    Attributes:
        path: Where it is.
        salvaged: Whether it was damaged, and is a new file with what could be read. The times of the requests before
            are unknown.
        damaged: Whether damage was found while it was open. It is saved at the next start alone, as what this process
            remembers would no longer be what is in the file.
    """

    def __init__(
        self,
        file: StateFile,
        db: sqlite3.Connection,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        *,
        salvaged: bool = False,
    ) -> None:
        """Use what `open_state` has opened.

        Args:
            file: The file, locked.
            db: The connection to it.
            now: Unix seconds.
            monotonic: Seconds that never go back.
            salvaged: As the attribute.
        """
        self.path = file.path
        self.salvaged = salvaged
        self.damaged = False
        self._file = file
        self._db = db
        self._now = now
        self._monotonic = monotonic
        self._mutex = threading.RLock()
        # Both are read without the mutex: a hanging write may hold it.
        self._busy_since: float | None = None
        self._problem: ProblemView | None = None
        self._resolved: tuple[float, float | None] | None = None
        # None without a connection: if a new file was put in place and could not be opened.
        self._siblings: tuple[state_file.Identity | None, ...] | None = self._identities()
        self._closed = False

    @property
    def problem(self) -> ProblemView | None:
        """Why the file cannot be written now, or None."""
        busy_since = self._busy_since
        if busy_since is not None and (seconds := self._monotonic() - busy_since) > LONGEST_WRITE:
            message = f"{self.path}: a write has not ended for {seconds:.0f} s; check the disk"
            return _problem(message, self._now() - seconds)
        return self._problem

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction: afterwards the file has all of the block, or nothing.

        Raises:
            StateWriteFailed: The file did not take it; nothing of the block is in the file.
        """
        with self._alone():
            self._find_file()
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except schema.READ_ERRORS as error:
                raise self._failed(error) from error
            finally:
                # A full disk can end a transaction by itself, and rolling back then fails.
                with contextlib.suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            if self._problem is not None and not self.damaged:
                self._resolved = (self._monotonic(), self._problem.since)
                self._problem = None

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed.

        Raises:
            StateError: It cannot be read.
        """
        with self._alone():
            try:
                yield self._db
            except schema.READ_ERRORS as error:
                raise StateError(str(self._failed(error, reading=True))) from error

    def probe(self) -> None:
        """Check whether the file is still in its place, and whether it can be written again.

        For the heartbeat: while nothing can be written no requests leave, so nothing else would write. It does not wait
        for a write that hangs, and what it finds is in `problem`.
        """
        if not self._mutex.acquire(timeout=PROBE_WAIT):
            return
        try:
            with contextlib.suppress(StateWriteFailed):
                if self._problem is not None or self._is_elsewhere():
                    with self.transaction() as db:
                        # The row exists already and is written all the same.
                        db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        finally:
            self._mutex.release()

    def close(self) -> None:
        """Close and unlock the file."""
        with self._alone():
            if self._closed:
                return
            with contextlib.suppress(StateWriteFailed):
                self._find_file()
            self._closed = True
            self._disconnect(self._file)
            self._file.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._mutex:
            outermost = self._busy_since is None
            if outermost:
                self._busy_since = self._monotonic()
            try:
                yield
            finally:
                if outermost:
                    self._busy_since = None

    def _failed(self, error: Exception, *, reading: bool = False) -> StateWriteFailed:
        """The error to raise; it becomes the problem of the file."""
        code = getattr(error, "sqlite_errorcode", None)
        if self.damaged and self._problem is not None:
            # This comes before any other error, and stays even if other writes succeed.
            message = self._problem.message
        elif _is_damage(error):
            self.damaged = True
            message = (
                f"{self.path}: the state file is damaged ({schema.reason_of(error)}), so nothing is counted; "
                "start the exporter again: it keeps what can be read"
            )
        elif isinstance(error, StateError):
            message = str(error)
        elif code is not None and code & 0xFF in _BUSY:
            message = (
                f"{self.path}: another program holds the state file ({schema.reason_of(error)}), "
                "so nothing is counted meanwhile; close the program, such as sqlite3"
            )
        elif reading:
            message = f"{self.path}: reading failed ({schema.reason_of(error)}); check the disk and the rights"
        else:
            message = (
                f"{self.path}: writing failed ({schema.reason_of(error)}); nothing is lost, "
                "but nothing is counted until the file can be written: check the disk and the rights"
            )
        since: float | None = self._now()
        if self._problem is not None:
            since = self._problem.since
        elif self._resolved is not None and self._monotonic() - self._resolved[0] < SAME_PROBLEM:
            since = self._resolved[1]
        self._problem = _problem(message, since)
        return StateWriteFailed(message)

    # ---- the file, which other programs may delete or replace ----

    def _find_file(self) -> None:
        """Make sure that a restart finds what is written at the file's name.

        Raises:
            StateWriteFailed: It would not be.
        """
        if self._closed:
            # Do not open it again: another process may use it.
            raise StateWriteFailed(f"{self.path}: the state file is closed")
        try:
            self._restore_file()
        except (OSError, sqlite3.Error, StateError) as error:
            raise self._failed(error) from error

    def _restore_file(self) -> None:
        match self._file.place():
            case Place.REPLACED:
                raise StateError(
                    f"{self.path}: another file has taken the place of the state file, so nothing is counted; "
                    "move it away, and what is counted is written there again; or start the exporter again to use it"
                )
            case Place.GONE:
                self._write_anew()
            case Place.HERE if self._file.new:
                raise StateDamaged(_EMPTIED)
            case Place.HERE:
                self._find_siblings()

    def _find_siblings(self) -> None:
        if self._siblings is None:
            self._connect()
        elif self._identities() != self._siblings:
            # Other programs that open the database would start their own WAL. The content of the one that only this
            # process still has goes into the database, and a new one is started.
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StateError(
                    f"{self.path}: a file that SQLite has beside it was deleted and cannot be recreated while another "
                    "program holds the state file, so nothing is counted; close the program, such as sqlite3"
                )
            self._disconnect(self._file)
            self._connect()
            log.warning(f"{self.path}: a file that SQLite has beside it was deleted; it is recreated, nothing is lost")

    def _write_anew(self) -> None:
        """Write the content of the deleted file, which is still open, to its name again."""
        try:
            with state_file.made_beside(self._file) as new:
                with contextlib.closing(sqlite3.connect(new.real, isolation_level=None)) as target:
                    self._db.backup(target)
                placed = state_file.put(new)
            old, self._file = self._file, placed
            self._disconnect(old)
            old.close()
            self._connect()
        except (OSError, sqlite3.Error, StateError) as error:
            raise StateError(
                f"{self.path}: the state file was deleted and cannot be rewritten ({schema.reason_of(error)}), "
                "so nothing is counted; check the folder and the disk"
            ) from error
        log.warning(f"{self.path}: the state file was deleted; it is rewritten, nothing is lost")

    def _connect(self) -> None:
        self._db = _connect(self._file)
        self._siblings = self._identities()

    def _disconnect(self, file: StateFile) -> None:
        """Close the connection to a file, which may no longer be the one at its name."""
        with contextlib.ExitStack() as stack:
            if file is not self._file or self._is_elsewhere():
                stack.enter_context(file.keep_siblings())
            self._siblings = None
            with contextlib.suppress(sqlite3.Error):
                self._db.close()

    def _identities(self) -> tuple[state_file.Identity | None, ...]:
        return tuple(map(state_file.identity_at, self._file.wal_and_shm))

    def _is_elsewhere(self) -> bool:
        try:
            return self._file.place() is not Place.HERE or self._file.new or self._identities() != self._siblings
        except OSError:
            return True


def _problem(message: str, since: float | None) -> ProblemView:
    return ProblemView(Subject.STATE_FILE, message, since, bad=True)


def open_state(path: Path, now: Callable[[], float], monotonic: Callable[[], float] = time.monotonic) -> State:
    """Open the state file, or create it.

    A file that is damaged is kept as `<path>.corrupt-<Unix time>`, and a new one begun with what can be read of it.

    Args:
        path: Where it is.
        now: Unix seconds.
        monotonic: Seconds that never go back.

    Raises:
        StateLocked: Another process holds it.
        StateError: It cannot be opened or written, or the file is something else, or of a newer release; that one is
            left as it is.
    """
    if sqlite3.sqlite_version_info < schema.SQLITE_NEEDED:
        needed = ".".join(map(str, schema.SQLITE_NEEDED))
        raise StateError(
            f"{path}: cannot use the state file (this Python has SQLite {sqlite3.sqlite_version}, {needed} is needed); "
            "install a newer one"
        )
    file = state_file.take(path)
    new, salvaged = file.new and not state_file.wal_is_left(file), False
    try:
        try:
            db = _open(file)
        except (*schema.READ_ERRORS, StateDamaged) as error:
            if new or not _is_damage(error, at_start=True):
                raise
            file = _save_what_can_be_read(file, schema.reason_of(error), now)
            salvaged = True
            db = _open(file)
    except BaseException as error:
        file.close()
        if isinstance(error, (*schema.READ_ERRORS, OSError, StateDamaged)):
            raise StateError(_cannot_use(path, error)) from error
        raise
    if file.names > 1:
        log.warning(
            f"{path}: the state file has {file.names} names (hard links); start the exporter with the same one always, "
            "as SQLite keeps what is newest beside the name"
        )
    return State(file, db, now, monotonic, salvaged=salvaged)


def _cannot_use(path: Path, error: BaseException) -> str:
    with contextlib.suppress(OSError):
        # SQLite reports this as a disk I/O error.
        if shutil.disk_usage(path.parent).free < FULL:
            return f"{path}: cannot use the state file, the disk is full; free some space"
    return (
        f"{path}: cannot use the state file ({schema.reason_of(error)}); check the disk and the rights, "
        "and on a network file system give a path on a local disk with --storage.path"
    )


def _open(file: StateFile) -> sqlite3.Connection:
    new = file.new
    if new and state_file.wal_is_left(file):
        # SQLite leaves no file beside an empty database.
        raise StateDamaged(_EMPTIED)
    if not new and not state_file.header_is_whole(file):
        raise StateDamaged("its header is not as it was made")
    db = _connect(file, new=new)
    try:
        schema.migrate(db)
        schema.check(db, str(file.path))
    except BaseException:
        db.close()
        raise
    return db


def _connect(file: StateFile, *, new: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(file.real, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        # Prometheus would take a counter that falls after a power cut for a reset, and count all of it again.
        db.execute("PRAGMA synchronous = FULL")
        if new:
            schema.create(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        state_file.tighten_siblings(file)
    except BaseException:
        db.close()
        raise
    return db


def _save_what_can_be_read(damaged: StateFile, reason: str, now: Callable[[], float]) -> StateFile:
    with state_file.made_beside(damaged) as new:
        with contextlib.closing(sqlite3.connect(new.real, isolation_level=None)) as db:
            # A kill meanwhile leaves a file that the next start replaces; `put` writes the complete one.
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA journal_mode = MEMORY")
            db.execute("PRAGMA cache_size = -65536")
            schema.create(db)
            lost = salvage(damaged.real, db, now())
        aside = state_file.aside_of(damaged, int(now()))
        placed = state_file.put_in_place_of(new, damaged, aside)
    damaged.close()
    log.warning(
        f"{damaged.path}: the state file is damaged ({reason}); what can be read is kept, the damaged file is "
        f"{aside.name}; lost: {lost}; requests begin after a minute"
    )
    return placed


def _is_damage(error: BaseException, *, at_start: bool = False) -> bool:
    """Whether an error is about the content of the file, not about the disk, permissions or other programs."""
    if isinstance(error, StateDamaged):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Text that cannot be decoded, and sizes larger than the memory.
        return isinstance(error, sqlite3.OperationalError | UnicodeDecodeError) or (
            at_start and isinstance(error, MemoryError)
        )
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGE:
        return True
    return at_start and code & 0xFF not in _ENVIRONMENT
