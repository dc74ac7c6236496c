"""The state file: opened, locked, invalid, deleted, on a full disk."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import StateError, StateLocked, StateWriteFailed
from exporter.storage import state_file
from exporter.storage.schema import APPLICATION_ID, SCHEMA_VERSION, empty_file
from exporter.storage.state import LONGEST_WRITE, SAME_PROBLEM, State, open_state
from exporter.storage.state_file import Place
from tests.support.fakes import FakeClock


def now() -> float:
    return 1_750_000_000.0


def write(state: State, *merchants: str) -> None:
    """Write a row of some size for each merchant."""
    with state.transaction() as db:
        db.executemany("INSERT INTO merchants (merchant_id) VALUES (?)", [(each,) for each in merchants])


def written(state: State) -> list[str]:
    with state.read() as db:
        return [each for (each,) in db.execute("SELECT merchant_id FROM merchants ORDER BY merchant_id")]


def committed(path: Path) -> list[str]:
    """The rows that a process would find if this one was killed now."""
    with contextlib.ExitStack() as stack:
        copy = path.parent / "copy" / path.name
        copy.parent.mkdir()
        stack.callback(shutil.rmtree, copy.parent)
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        state = open_state(copy, now)
        stack.callback(state.close)
        return written(state)


def seen_by_sqlite(path: Path, statement: str) -> str:
    """The rows that the operator's sqlite3 finds, in another process."""
    program = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1], timeout=0).execute(sys.argv[2]).fetchall())"
    return subprocess.run(
        [sys.executable, "-c", program, path, statement], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def opened(path: Path, clock: FakeClock) -> Iterator[State]:
    """An open state file with one row."""
    state = open_state(path, clock.now, clock.monotonic)
    write(state, "a")
    yield state
    state.close()


# ---- opening ----


def test_a_new_file_gets_the_layout_and_is_found_again(path: Path) -> None:
    """Committed rows are there after closing and opening; an empty file is a new one."""
    path.touch()
    state = open_state(path, now)
    write(state, "a")
    state.close()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]
    state = open_state(path, now)
    assert written(state) == ["a"]
    with state.read() as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    state.close()


def test_a_newer_layout_is_not_touched(path: Path) -> None:
    """A file of a newer release is neither read nor changed."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(StateError, match=f"layout is {SCHEMA_VERSION + 1}, this release knows {SCHEMA_VERSION}"):
        open_state(path, now)
    assert path.read_bytes() == before


def other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE streams (theirs)")


def other_database_in_wal_mode(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE streams (theirs)")


OTHERS: dict[str, Callable[[Path], object]] = {
    "another SQLite database": other_database,
    "another SQLite database in WAL mode": other_database_in_wal_mode,
    "text": lambda path: path.write_text("merchants:\n" * 100),
    "short text": lambda path: path.write_text("x"),
    "an image": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000)),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_program_is_not_touched(what: str, path: Path) -> None:
    """A wrong --storage.path is one line: not a byte is changed, and no file is added."""
    OTHERS[what](path)
    before = (path.lstat(), path.read_bytes() if path.is_file() else b"")
    with pytest.raises(StateError, match=r"state\.db: is not a state file of smartstream-exporter \(.*--storage") as e:
        open_state(path, now)
    assert what.startswith(("text", "short", "an image", "zeros")) or what.split(" in ", maxsplit=1)[0] in str(e.value)
    after = (path.lstat(), path.read_bytes() if path.is_file() else b"")
    assert (before[0].st_ino, before[0].st_mode, before[0].st_size, before[0].st_mtime_ns, before[1]) == (
        (after[0].st_ino, after[0].st_mode, after[0].st_size, after[0].st_mtime_ns, after[1])
    )
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_missing_folder_is_named(folder: str, tmp_path: Path) -> None:
    """The line names the path and the flag that fixes it."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=rf"{folder}/state\.db: cannot be made or opened here .*--storage\.path"):
        open_state(tmp_path / folder / "state.db", now)


def test_too_old_a_sqlite_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the required version, and no file is created."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(StateError, match=r"this Python has SQLite .*, 3\.37 is needed"):
        open_state(path, now)
    assert not path.exists()


def test_each_table_begins_on_the_same_page_in_every_file(opened: State, path: Path) -> None:
    """So a new file shows where tables begin in a damaged file that has lost its schema, also after VACUUM."""
    write(opened, *(f"{n}" * 500 for n in range(100)))
    opened.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        roots = db.execute("SELECT name, rootpage FROM sqlite_schema ORDER BY name").fetchall()
        db.execute("VACUUM")
        assert db.execute("SELECT name, rootpage FROM sqlite_schema ORDER BY name").fetchall() == roots
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(empty_file())
        assert db.execute("SELECT name, rootpage FROM sqlite_schema ORDER BY name").fetchall() == roots


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_only_the_owner_may_read_it(path: Path, umask: int) -> None:
    """The file and SQLite's files beside it are for their owner, also if the file had wider permissions before."""
    before = os.umask(umask)
    try:
        for _ in range(2):
            state = open_state(path, now)
            write(state, str(_))
            modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
            assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
            path.unlink()
            state.probe()
            assert path.stat().st_mode & 0o777 == 0o600
            state.close()
            path.chmod(0o666)
    finally:
        os.umask(before)


# ---- one process ----


@pytest.mark.parametrize("name", ["state.db", "symbolic.db", "hard.db", "folder/../state.db"])
def test_a_second_process_is_refused(opened: State, path: Path, name: str) -> None:
    """Two exporters on one state file would both count, under any file name: the second ends with a clear line."""
    (path.parent / "folder").mkdir()
    (path.parent / "symbolic.db").symlink_to(path)
    (path.parent / "hard.db").hardlink_to(path)
    # Reading the file meanwhile does not release the lock.
    assert state_file.recognise(path)
    assert written(opened) == ["a"]
    program = (
        "import sys; from pathlib import Path; from exporter.storage.state import open_state\n"
        "try: open_state(Path(sys.argv[1]), lambda: 0.0)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, path.parent / name], capture_output=True, text=True, check=True, timeout=60
    )
    assert other.stdout.startswith("StateLocked")
    assert "another smartstream-exporter uses this state file; stop it, or" in other.stdout
    with pytest.raises(StateLocked):
        open_state(path.parent / name, now)
    opened.close()
    open_state(path.parent / name, now).close()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_truncated_file_is_damaged_and_not_new(opened: State, path: Path, tmp_path: Path, how: str) -> None:
    """A log rotation that copies and truncates can empty the file. That is noticed at once, and after a restart the
    requests wait as after any damage, as their times are unknown.
    """
    with opened.transaction() as db:
        db.execute("INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES ('m', 1, 'b', 1)")
    os.truncate(path, 0)
    opened.probe()
    assert opened.damaged
    assert opened.problem is not None
    assert "the state file is damaged (something has emptied it), so nothing is counted" in opened.problem.message
    folder = tmp_path / "after"
    folder.mkdir()
    if how == "stopped":
        opened.close()
    for each in path.parent.glob("state.db*"):
        shutil.copy(each, folder)
    with contextlib.closing(open_state(folder / "state.db", now)) as again:
        assert again.salvaged
        with again.transaction() as db:
            db.execute("DELETE FROM sends")
    assert len(list(folder.glob("state.db.corrupt-*"))) >= 1


def test_a_full_disk_at_the_start_is_reported_as_such(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says "disk I/O error"."""
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(StateError) as caught:
            open_state(path, now)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"{path}: cannot use the state file, the disk is full; free some space"


def test_a_file_with_two_names_is_reported(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a kill, the newest data would be beside the other name."""
    open_state(path, now).close()
    assert "names" not in capsys.readouterr().out
    path.with_name("hard.db").hardlink_to(path)
    open_state(path, now).close()
    assert "has 2 names (hard links); start the exporter with the same one always" in capsys.readouterr().out


def test_others_may_read_it_meanwhile(opened: State, path: Path) -> None:
    """The operator's sqlite3 reads committed data without disturbing the exporter."""
    assert seen_by_sqlite(path, "SELECT merchant_id FROM merchants") == "[('a',)]"
    write(opened, "b")
    assert seen_by_sqlite(path, "SELECT merchant_id FROM merchants") == "[('a',), ('b',)]"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_no_second_exporter(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The line names the problem, and what to do."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(StateError, match=r"cannot lock files \(.*\).*local disk with --storage\.path") as raised:
        open_state(path, now)
    assert not isinstance(raised.value, StateLocked)


def test_the_locked_file_is_the_one_at_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is replaced after it was opened, and before it was locked, is not used."""
    open_state(path, now).close()
    lock = state_file._lock_whole
    times: list[int] = []

    def lock_late(file: state_file.StateFile) -> None:
        if not times:
            path.rename(path.with_name("moved.db"))
            path.touch()
        times.append(1)
        lock(file)

    monkeypatch.setattr(state_file, "_lock_whole", lock_late)
    file = state_file.take(path)
    assert file.place() is Place.HERE
    assert file.new
    file.close()
    assert len(times) == 2


def test_a_file_that_is_always_replaced_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start does not loop for ever."""
    monkeypatch.setattr(state_file.StateFile, "place", lambda self: Place.REPLACED)
    with pytest.raises(StateError, match="again and again"):
        state_file.take(path)


def test_a_closed_file_is_not_opened_again(opened: State, path: Path) -> None:
    """A late thread must not write to a file that another process may have."""
    opened.close()
    with pytest.raises(StateWriteFailed, match="is closed"):
        write(opened, "b")
    opened.probe()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]
    opened.close()


# ---- deleted or replaced while it is open ----


@pytest.mark.parametrize("gone", [[""], ["", "-wal", "-shm"], ["-wal"], ["-shm"], ["-wal", "-shm"]])
@pytest.mark.parametrize("noticed_by", ["a write", "the heartbeat", "the end"])
def test_a_deleted_file_is_written_again(opened: State, path: Path, gone: list[str], noticed_by: str) -> None:
    """All data from before and after is in the file at the path, whichever of the files was
    deleted, and it is locked.
    """
    for suffix in gone:
        Path(f"{path}{suffix}").unlink()
    if noticed_by == "a write":
        write(opened, "b")
        expected = ["a", "b"]
    elif noticed_by == "the heartbeat":
        opened.probe()
        expected = ["a"]
    else:
        opened.close()
        assert committed(path) == ["a"]
        return
    assert opened.problem is None
    assert committed(path) == expected
    write(opened, "c")
    assert committed(path) == [*expected, "c"]
    with pytest.raises(StateLocked):
        open_state(path, now)
    opened.close()
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]
    assert committed(path) == [*expected, "c"]


def test_a_wal_is_kept_while_another_program_reads_it(opened: State, path: Path) -> None:
    """Its content could not be moved into the database then."""
    with opened.read() as db:
        db.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM merchants").fetchall()
        write(opened, "b")
        Path(f"{path}-wal").unlink()
        with pytest.raises(StateWriteFailed, match="close the program"):
            write(opened, "c")
        assert opened.problem is not None
    opened.probe()
    assert opened.problem is None
    assert committed(path) == ["a", "b"]


def test_a_moved_folder_is_a_problem_until_it_is_back(opened: State, path: Path, clock: FakeClock) -> None:
    """While the file cannot be written again nothing is counted, and that is reported; nothing is lost."""
    folder = path.parent
    folder.rename(folder.with_name("moved"))
    began = clock.now()
    opened.probe()
    clock.advance(30)
    with pytest.raises(StateWriteFailed):
        write(opened, "b")
    assert opened.problem is not None
    assert opened.problem.since == began
    assert "was deleted and cannot be rewritten" in opened.problem.message
    folder.mkdir()
    opened.probe()
    assert opened.problem is None
    write(opened, "b")
    assert committed(path) == ["a", "b"]
    folder.with_name("moved").joinpath("state.db").unlink()


@pytest.mark.parametrize("other", ["text", "a state file"])
def test_a_file_that_took_its_place_is_never_overwritten(opened: State, path: Path, other: str) -> None:
    """Nothing is counted then, and the line says how to continue; the content of the other file's WAL is kept, too."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    if other == "text":
        path.write_text("something else")
        Path(f"{path}-wal").write_text("theirs")
    else:
        second = open_state(path, now)
        write(second, "theirs")
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    opened.probe()
    assert opened.problem is not None
    assert "another file has taken the place of the state file" in opened.problem.message
    with pytest.raises(StateWriteFailed, match="move it away, and what is counted is written there again"):
        write(opened, "b")
    opened.close()
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before
    if other != "text":
        assert committed(path) == ["theirs"]
        second.close()


def test_a_replaced_file_is_written_when_the_other_is_gone(opened: State, path: Path) -> None:
    """The state file is written at its path once the other file is removed, as the message says."""
    path.unlink()
    path.write_text("something else")
    opened.probe()
    assert opened.problem is not None
    path.rename(path.with_name("else"))
    opened.probe()
    assert opened.problem is None
    assert committed(path) == ["a"]


# ---- writing ----


def test_a_transaction_is_all_or_nothing(opened: State) -> None:
    """Whatever ends the block, nothing of it is committed; an exception that is not from the file is no problem of the
    file.
    """
    with contextlib.suppress(KeyboardInterrupt), opened.transaction() as db:
        db.execute("INSERT INTO merchants (merchant_id) VALUES ('b')")
        raise KeyboardInterrupt
    assert written(opened) == ["a"]
    assert opened.problem is None


def test_a_full_disk_is_one_line_and_loses_nothing(opened: State, clock: FakeClock) -> None:
    """A write that fails on a full disk is rolled back and reported; the next one works again."""
    with opened.read() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
    big = [f"{n}" * 1000 for n in range(100)]
    began = clock.now()
    with pytest.raises(StateWriteFailed, match=r"full.*nothing is lost"):
        write(opened, *big)
    clock.advance(10)
    with pytest.raises(StateWriteFailed):
        write(opened, *big)
    assert opened.problem is not None
    assert opened.problem.since == began
    assert "check the disk" in opened.problem.message
    with opened.read() as db:
        assert db.execute("SELECT merchant_id FROM merchants").fetchall() == [("a",)]
        db.execute("PRAGMA max_page_count = 1000000")
    write(opened, *big)
    assert opened.problem is None


def test_a_file_size_limit_is_like_a_full_disk(opened: State) -> None:
    """A refusal by the operating system gives the same error, and the heartbeat notices its end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StateWriteFailed):
            write(opened, *(f"{n}" * 1000 for n in range(1000)))
        opened.probe()
        assert opened.problem is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    opened.probe()
    assert opened.problem is None
    assert written(opened) == ["a"]


def test_a_recurring_problem_is_one_problem(opened: State, clock: FakeClock) -> None:
    """On a full disk a small write may succeed now and then: the problem is as old as its first failure."""

    def fail() -> None:
        with contextlib.suppress(StateWriteFailed), opened.transaction() as db:
            db.execute("INSERT INTO nothing VALUES (1)")

    began = clock.now()
    for pause in (5, SAME_PROBLEM - 1, SAME_PROBLEM + 1):
        fail()
        assert opened.problem is not None
        assert opened.problem.since == began
        opened.probe()
        assert opened.problem is None
        clock.advance(pause)
    fail()
    assert opened.problem is not None
    assert opened.problem.since == clock.now()


def test_a_write_lock_of_another_program_is_reported(
    opened: State, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's sqlite3 with an open transaction is not a problem of the disk."""
    with opened.read() as db:
        db.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateWriteFailed, match=r"another program holds the state file .*close the program"):
            write(opened, "b")
        other.execute("ROLLBACK")
    opened.probe()
    assert opened.problem is None


def test_a_hanging_write_is_a_problem_and_does_not_block_the_heartbeat(opened: State, clock: FakeClock) -> None:
    """If the disk does not respond, a write waits for ever."""
    hanging, end = threading.Event(), threading.Event()

    def hang() -> None:
        with opened.transaction():
            hanging.set()
            end.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        assert hanging.wait(60)
        began = clock.now()
        opened.probe()
        assert opened.problem is None
        clock.advance(LONGEST_WRITE + 5)
        opened.probe()
        assert opened.problem is not None
        assert opened.problem.since == began
        assert "a write has not ended for 65 s; check the disk" in opened.problem.message
    finally:
        end.set()
        thread.join()
    assert opened.problem is None


def test_an_unreadable_file_is_an_error_of_the_tree(opened: State) -> None:
    """No error of SQLite escapes."""
    with pytest.raises(StateError, match="no such table"), opened.read() as db:
        db.execute("SELECT * FROM missing")


def test_a_long_sqlite_error_is_shortened_to_a_line(opened: State) -> None:
    """It may repeat a statement, with all of its lines."""
    with pytest.raises(StateError) as raised, opened.read() as db:
        db.execute('SELECT "' + "many\nlines " * 100)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("how", ["read", "write"])
def test_damage_at_run_time_is_a_problem_that_a_restart_fixes(path: Path, how: str) -> None:
    """If pages become invalid while the exporter runs, no exception escapes, and the line says to restart it."""
    state = open_state(path, now)
    write(state, *(f"{n:04}" * 100 for n in range(200)))
    state.close()
    state = open_state(path, now)
    with state.read() as db:
        db.execute("PRAGMA shrink_memory")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    def use(statement: str) -> Any:
        with state.read() if how == "read" else state.transaction() as db:
            return db.execute(statement).fetchall()

    with pytest.raises(StateError, match=r"the state file is damaged .*start the exporter again"):
        use("SELECT * FROM merchants" if how == "read" else "UPDATE merchants SET lost_minutes = 1")
    problem = state.problem
    assert problem is not None
    assert state.damaged
    # Other pages can still be written, but the file stays damaged.
    with state.transaction() as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    state.probe()
    assert state.problem == problem
    state.close()
    state = open_state(path, now)
    assert state.problem is None
    state.close()
