"""The state file as a file: recognised before it is touched, locked by one process, and checked to be in its place.

What is locked is the database itself, whatever name leads to it. SQLite's own locks cannot do that, as they would keep
`plan` and the operator's sqlite3 from reading. So one byte that SQLite never locks is locked by an *open file
description* lock. Unlike flock(2), it does not become a lock on the whole file on NFS, where it would be in SQLite's
way; unlike a POSIX lock, it is not gone when anything in this process closes the file.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from pathlib import Path

from exporter.errors import StateError, StateLocked
from exporter.storage.schema import APPLICATION_ID, empty_file

# Only for the owner: the state file names media and live events.
MODE = 0o600

# The files of SQLite beside the database.
SIBLINGS = ("-wal", "-shm", "-journal")

# SQLite locks this byte and the ones after it (PENDING_BYTE; SHARED_FIRST and SHARED_SIZE are of those).
_PENDING = 2**30
_SHARED, _SHARED_SIZE = _PENDING + 2, 510
_OURS = _PENDING - 1

_MAGIC = b"SQLite format 3\x00"
_ID_AT = 68

# Another program may replace the file while it is opened, but not every time.
_TRIES = 5

# Device and inode.
Identity = tuple[int, int]

# Errors of fcntl if another process holds the lock.
_HELD = (errno.EAGAIN, errno.EACCES)


class Place(Enum):
    """What is at the path at which the file was opened."""

    HERE = auto()
    GONE = auto()
    REPLACED = auto()


@dataclass(frozen=True)
class StateFile:
    """A state file that this process has locked.

    Attributes:
        path: Its name as configured.
        real: Its name without symbolic links.
        descriptor: Of the open file; to close it is to unlock it.
    """

    path: Path
    real: Path
    descriptor: int

    @cached_property
    def wal_and_shm(self) -> tuple[str, str]:
        """The names of the files that SQLite has beside it while it is open."""
        return f"{self.real}-wal", f"{self.real}-shm"

    @cached_property
    def identity(self) -> Identity | None:
        """What distinguishes it from another file of the same name. Each transaction compares it."""
        return identity_at(self.descriptor)

    @property
    def new(self) -> bool:
        """Whether it is empty."""
        return os.fstat(self.descriptor).st_size == 0

    @property
    def names(self) -> int:
        """Number of hard links."""
        return os.fstat(self.descriptor).st_nlink

    def place(self) -> Place:
        """Whether the path still leads to this file.

        Raises:
            OSError: This cannot be determined.
        """
        found = identity_at(self.path)
        if found is None:
            return Place.GONE
        return Place.HERE if found == self.identity else Place.REPLACED

    @contextlib.contextmanager
    def keep_siblings(self) -> Iterator[None]:
        """Let SQLite close its connection without deleting `-wal` and `-shm`: they are no longer this file's.

        SQLite deletes them by name, after it has locked the database for itself alone. This keeps it from that.
        """
        with contextlib.suppress(OSError):
            _lock(self.descriptor, fcntl.F_RDLCK, _SHARED, _SHARED_SIZE)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                _lock(self.descriptor, fcntl.F_UNLCK, _SHARED, _SHARED_SIZE)

    def close(self) -> None:
        """Unlock it. A connection to it must be closed before: closing the file ends all of SQLite's locks, too."""
        os.close(self.descriptor)


def take(path: Path) -> StateFile:
    """Recognise the state file and lock it, or create an empty one. Any other file is left as it is.

    Raises:
        StateLocked: Another process has it.
        StateError: Something else is there, or it cannot be opened, or not locked.
    """
    try:
        for _ in range(_TRIES):
            file = _open(path)
            try:
                _recognise(path, file.descriptor)
                _lock_whole(file)
                # Another program may have replaced it meanwhile.
                if file.place() is Place.HERE:
                    _tighten(file.descriptor)
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
    except (OSError, ValueError) as error:
        raise StateError(
            f"{path}: cannot be made or opened here ({_reason(error)}); "
            "give a folder and a file that this user can write to with --storage.path"
        ) from error
    raise StateError(f"{path}: is replaced again and again; stop the program that does this, and start again")


@contextlib.contextmanager
def made_beside(file: StateFile) -> Iterator[StateFile]:
    """Create an empty locked file beside another, to replace it; one left by a kill is removed.

    If the block fails, the new file is deleted.

    Raises:
        OSError: It cannot be made.
        StateError: It cannot be locked.
    """
    real = file.real.with_name(file.real.name + ".new")
    remove(real)
    made = StateFile(file.path, real, os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))
    try:
        _tighten(made.descriptor)
        _lock_whole(made)
        yield made
    except BaseException:
        made.close()
        with contextlib.suppress(OSError):
            remove(real)
        raise


def put(made: StateFile) -> StateFile:
    """Rename a file of `made_beside` to its final name, unless another file has that name now.

    Raises:
        OSError: That cannot be done: FileExistsError where another has it.
    """
    target = Path(os.path.realpath(made.path))
    os.fsync(made.descriptor)
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    # An old WAL would be taken for that of this file.
    remove_siblings(target)
    try:
        # Unlike a rename, this does not replace a file that has just been created.
        os.link(made.real, target)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems have no hard links.
        made.real.rename(target)
    else:
        made.real.unlink()
    _sync_folder(target)
    return StateFile(made.path, target, made.descriptor)


def put_in_place_of(made: StateFile, file: StateFile, aside: Path) -> StateFile:
    """Replace a file by a new one, and keep it under another name with its WAL.

    Raises:
        OSError: That cannot be done.
    """
    os.fsync(made.descriptor)
    # Whenever the process is killed, the name leads to one of the two.
    try:
        os.link(file.real, aside)
    except OSError:
        file.real.rename(aside)
    wal = file.real.with_name(file.real.name + "-wal")
    with contextlib.suppress(FileNotFoundError):
        wal.rename(aside.with_name(aside.name + "-wal"))
    remove_siblings(file.real)
    made.real.rename(file.real)
    _sync_folder(file.real)
    return StateFile(file.path, file.real, made.descriptor)


def aside_of(file: StateFile, now: int) -> Path:
    """An unused name for a damaged file."""
    while (aside := file.real.with_name(f"{file.real.name}.corrupt-{now}")).exists():
        now += 1
    return aside


def remove(path: Path) -> None:
    """Delete a file and the files of SQLite beside it, if they exist."""
    path.unlink(missing_ok=True)
    remove_siblings(path)


def remove_siblings(path: Path) -> None:
    """Delete the files of SQLite beside a file, if they exist."""
    for suffix in SIBLINGS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def identity_at(path: Path | str | int) -> Identity | None:
    """Device and inode at a path, or of an open file by its descriptor; None if nothing is there.

    Raises:
        OSError: This cannot be determined.
    """
    try:
        # Called before each transaction: `Path.stat` is slower.
        info = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    return info.st_dev, info.st_ino


def recognise(path: Path) -> bool:
    """Whether there is a state file at a path; False for no file, or an empty one.

    Raises:
        StateError: Something else is there.
        OSError: It cannot be read.
    """
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    _refuse_others(path, info.st_mode)
    with path.open("rb") as file:
        _recognise(path, file.fileno())
    return info.st_size > 0


def header_is_whole(file: StateFile) -> bool:
    """Whether the header is that of a state file."""
    head, usual = os.pread(file.descriptor, 24, 0), empty_file()
    # 2 means WAL mode.
    return head in (usual[:24], usual[:18] + b"\x02\x02" + usual[20:24])


def tighten_siblings(file: StateFile) -> None:
    """Remove other users' permissions from a WAL that was created when the file still had them."""
    for suffix in SIBLINGS:
        with contextlib.suppress(OSError):
            file.real.with_name(file.real.name + suffix).chmod(MODE)


def _open(path: Path) -> StateFile:
    real = Path(os.path.realpath(path))
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # Opening a device or a FIFO can have effects.
        _refuse_others(path, real.stat().st_mode)
    except FileNotFoundError:
        flags |= os.O_CREAT
    return StateFile(path, real, os.open(real, flags, MODE))


def _refuse_others(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        raise _not_ours(path, kinds.get(stat.S_IFMT(mode), "a device"))


def _recognise(path: Path, descriptor: int) -> None:
    """Read the header without SQLite, which would change a database by opening it."""
    _refuse_others(path, os.fstat(descriptor).st_mode)
    head = os.pread(descriptor, _ID_AT + 4, 0)
    # Only the number decides: the magic before it can be damaged and repaired.
    if not head or head[_ID_AT:] == APPLICATION_ID.to_bytes(4, "big"):
        return
    raise _not_ours(path, "another SQLite database" if head.startswith(_MAGIC) else "something else, or damaged")


def wal_is_left(file: StateFile) -> bool:
    """Whether SQLite has left data beside the file that is not in it yet."""
    with contextlib.suppress(OSError):
        return Path(file.wal_and_shm[0]).stat().st_size > 0
    return False


def _not_ours(path: Path, what: str) -> StateError:
    return StateError(
        f"{path}: is not a state file of smartstream-exporter ({what}), and is left as it is; "
        "give the path of the state file with --storage.path, or move this file away to start with a new one"
    )


def _lock_whole(file: StateFile) -> None:
    try:
        _lock(file.descriptor, fcntl.F_WRLCK, _OURS, 1)
    except OSError as error:
        if error.errno in _HELD:
            raise StateLocked(
                f"{file.path}: another smartstream-exporter uses this state file; "
                "stop it, or give this one its own with --storage.path"
            ) from error
        # Without a lock two exporters could count in one file, and each would use the whole budget.
        raise StateError(
            f"{file.path}: its file system cannot lock files ({error.strerror}), as some network file systems; "
            "give a path on a local disk with --storage.path"
        ) from error


def _lock(descriptor: int, kind: int, start: int, length: int) -> None:
    # struct flock: type, whence, start, length, process.
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def _tighten(descriptor: int) -> None:
    """Remove other users' permissions, whatever the umask is; SQLite copies them to the files beside it."""
    # Some file systems, and files of another owner, do not allow this.
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, MODE)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
