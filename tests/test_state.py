"""The state file: opened, locked, damaged, full."""

import contextlib
import resource
import sqlite3
from pathlib import Path

import pytest

from exporter.errors import StateError, StateLocked, StateTooNew, StateWriteFailed
from exporter.layout import SCHEMA_VERSION
from exporter.state import open_state


def now() -> float:
    return 1_750_000_000.0


def test_a_new_file_gets_the_layout_and_is_found_again(tmp_path: Path) -> None:
    """What was written is there after closing and opening."""
    path = tmp_path / "state.db"
    state = open_state(path, now)
    with state.transaction() as db:
        db.execute("INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES ('m', 1, '', 0)")
    state.close()
    state = open_state(path, now)
    with state.read() as db:
        assert db.execute("SELECT merchant_id, sent_at FROM sends").fetchall() == [("m", 1.0)]
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    state.close()


def test_a_second_process_is_told_who_has_the_file(tmp_path: Path) -> None:
    """Two exporters on one state file would both count: the second one ends with a clear line."""
    state = open_state(tmp_path / "state.db", now)
    with pytest.raises(StateLocked, match=r"another smartstream-exporter uses this state file; stop it, or"):
        open_state(tmp_path / "state.db", now)
    state.close()
    open_state(tmp_path / "state.db", now).close()


def test_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    """A file of a newer release is neither read nor changed."""
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StateTooNew, match=f"layout is {SCHEMA_VERSION + 1}, this release knows {SCHEMA_VERSION}"):
        open_state(path, now)


@pytest.mark.parametrize("content", [b"this is not a database, but long enough to be one" * 50, b"short"])
def test_a_damaged_file_is_kept_aside(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file is renamed, said in one line, and counting starts anew."""
    path = tmp_path / "state.db"
    path.write_bytes(content)
    open_state(path, now).close()
    aside = tmp_path / "state.db.corrupt-1750000000"
    assert aside.read_bytes() == content


def test_a_file_damaged_in_the_middle_is_noticed_at_the_start(tmp_path: Path) -> None:
    """Damage deep in the file is found when it is opened, not when it is read one day."""
    path = tmp_path / "state.db"
    state = open_state(path, now)
    with state.transaction() as db:
        db.executemany(
            "INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES (?, ?, '', 0)",
            [(f"merchant {n}" * 20, n) for n in range(2000)],
        )
    state.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8192] = b"\xff" * 8192
    path.write_bytes(content)
    state = open_state(path, now)
    with state.read() as db:
        assert db.execute("SELECT count(*) FROM sends").fetchone() == (0,)
    state.close()
    assert (tmp_path / "state.db.corrupt-1750000000").read_bytes() == content


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The line names the path and the flag that mends it."""
    path = tmp_path / "missing" / "state.db"
    with pytest.raises(StateError, match=r"missing/state\.db: cannot be made or opened here .*--storage\.path"):
        open_state(path, now)


def test_a_folder_in_the_files_place_is_said(tmp_path: Path) -> None:
    """A path that is a folder is one clear line, too, and nothing is renamed."""
    path = tmp_path / "state.db"
    path.mkdir()
    with pytest.raises(StateError, match=r"cannot use the state file"):
        open_state(path, now)
    assert path.is_dir()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """Whatever ends the block, nothing of it stays."""
    state = open_state(tmp_path / "state.db", now)
    with contextlib.suppress(KeyboardInterrupt), state.transaction() as db:
        db.execute("INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES ('m', 1, '', 0)")
        raise KeyboardInterrupt
    with state.read() as db:
        assert not db.execute("SELECT merchant_id, sent_at FROM sends").fetchall()
    state.close()


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """A write that the disk does not take is rolled back and said; the next one works again."""
    state = open_state(tmp_path / "state.db", now)
    with state.transaction() as db:
        db.execute("INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES ('m', 1, '', 0)")
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    with state.read() as db:
        db.execute(f"PRAGMA max_page_count = {pages}")
    big = [("m" * 1000, n) for n in range(1000)]
    with pytest.raises(StateWriteFailed, match=r"full.*nothing is lost"), state.transaction() as db:
        db.executemany("INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES (?, ?, '', 0)", big)
    with state.read() as db:
        assert db.execute("SELECT merchant_id, sent_at FROM sends").fetchall() == [("m", 1.0)]
        db.execute("PRAGMA max_page_count = 1000000")
    with state.transaction() as db:
        db.executemany("INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES (?, ?, '', 0)", big)
    state.close()


def test_a_file_size_limit_is_like_a_full_disk(tmp_path: Path) -> None:
    """The operating system's own refusal to write more gives the same error."""
    state = open_state(tmp_path / "state.db", now)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StateWriteFailed), state.transaction() as db:
            db.executemany(
                "INSERT INTO sends (merchant_id, sent_at, boot, ticks) VALUES (?, ?, '', 0)",
                [("m" * 1000, n) for n in range(1000)],
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with state.read() as db:
        assert not db.execute("SELECT merchant_id, sent_at FROM sends").fetchall()
    state.close()
