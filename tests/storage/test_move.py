"""A merchant's state moves to another file as a whole, whatever happens meanwhile."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.errors import InputError, StateError, StateLocked
from exporter.storage import move
from exporter.storage.move import move_merchant
from exporter.storage.schema import create
from tests.support.rows import fill, opened, rows_of, tables_in


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state file with two merchants."""
    path = tmp_path / "old.db"
    with opened(path) as state, state.transaction() as db:
        fill(db, "m", range(1, 4))
        fill(db, "n", range(4, 8))
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A state file with another merchant, whose streams have the same ids."""
    path = tmp_path / "new.db"
    with opened(path) as state, state.transaction() as db:
        fill(db, "o", range(1, 6))
    return path


def test_every_table_belongs_to_merchants() -> None:
    """Each table has a merchant or a stream in each row; a new table that has neither would be left behind."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create(db)
        tables = tables_in(db)
        assert {table.name for table in move.tables_of(db)} == set(tables)
    for table, columns in tables.items():
        assert {name for name, _ in columns} & {"merchant_id", "stream_id"}, table


def test_everything_moves(old: Path, new: Path) -> None:
    """The new file has the merchant's rows of every table, the old one none; other merchants stay as they are."""
    before, others = rows_of(old, "m"), (rows_of(old, "n"), rows_of(new, "o"))
    assert all(before.values())
    assert move_merchant("m", old, new) == 3
    assert rows_of(new, "m") == before
    assert not any(rows_of(old, "m").values())
    assert (rows_of(old, "n"), rows_of(new, "o")) == others


def test_a_new_file(old: Path, tmp_path: Path) -> None:
    """The new file is created, for its owner alone."""
    before, target = rows_of(old, "m"), tmp_path / "third.db"
    move_merchant("m", old, target)
    assert rows_of(target, "m") == before
    assert target.stat().st_mode & 0o777 == 0o600


def test_there_and_back(old: Path, new: Path) -> None:
    """Moved back, the merchant is as before."""
    before = rows_of(old, "m")
    move_merchant("m", old, new)
    move_merchant("m", new, old)
    assert rows_of(old, "m") == before


class Killed(BaseException):
    """The process ends here."""


def move_until(step: str, old: Path, new: Path) -> None:
    """Move the merchant, and be killed before a step."""

    def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(move, step, killed)
        with pytest.raises(Killed):
            move_merchant("m", old, new)


@pytest.mark.parametrize("step", ["_copy", "_remove"])
def test_a_kill_before_a_step(old: Path, new: Path, step: str) -> None:
    """At each moment one of the files has everything, and the same command finishes."""
    before = rows_of(old, "m")
    move_until(step, old, new)
    assert rows_of(old, "m") == before
    assert rows_of(new, "m") == (before if step == "_remove" else {table: [] for table in before})
    move_merchant("m", old, new)
    assert rows_of(new, "m") == before
    assert not any(rows_of(old, "m").values())


@pytest.mark.parametrize("fails", ["old", "new"])
def test_a_failure_in_a_step(old: Path, new: Path, fails: str) -> None:
    """A step that fails in the middle leaves its file as it was, and the same command finishes later."""
    before = rows_of(old, "m")
    path, event = (old, "DELETE") if fails == "old" else (new, "INSERT")
    with contextlib.closing(sqlite3.connect(path)) as db:
        # The last table of each step.
        table = "merchants" if fails == "old" else "held"
        db.execute(f"CREATE TRIGGER full BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        db.commit()
    with pytest.raises(StateError, match="disk full"):
        move_merchant("m", old, new)
    assert rows_of(old, "m") == before
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER full")
        db.commit()
    move_merchant("m", old, new)
    assert rows_of(new, "m") == before
    assert not any(rows_of(old, "m").values())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE streams SET through = through + 1 WHERE stream_id = 6",
        "UPDATE series SET total = total + 1 WHERE stream_id = 6",
        "DELETE FROM sends WHERE merchant_id = 'm' AND ticks = (SELECT min(ticks) FROM sends WHERE merchant_id = 'm')",
    ],
)
def test_other_state_of_the_merchant(old: Path, new: Path, change: str) -> None:
    """If the new file has other state of the merchant, nothing changes in either file, and the message says what to do:
    the other state can be moved away.
    """
    before = rows_of(old, "m")
    move_until("_remove", old, new)
    with opened(new) as state, state.transaction() as db:
        assert db.execute(change).rowcount == 1
    other = rows_of(new, "m")
    with pytest.raises(InputError) as caught:
        move_merchant("m", old, new)
    assert str(caught.value).startswith(f"--to: {new} has other state of merchant m (")
    assert str(caught.value).endswith(f"to use that of {old}, first move this one to a file of its own")
    assert (rows_of(old, "m"), rows_of(new, "m")) == (before, other)
    move_merchant("m", new, new.with_name("aside.db"))
    move_merchant("m", old, new)
    assert rows_of(new, "m") == before


@pytest.mark.parametrize("used", ["old", "new"])
def test_an_exporter_that_runs(old: Path, new: Path, used: str) -> None:
    """While a process has one of the files, nothing is moved, and the message names the file."""
    path, flag = (old, "--from") if used == "old" else (new, "--to")
    before = rows_of(old, "m")
    with opened(path), pytest.raises(StateLocked) as caught:
        move_merchant("m", old, new)
    assert str(caught.value) == f"{flag}: an exporter runs with {path}; stop it, and run this again"
    assert rows_of(old, "m") == before


def test_a_damaged_file(old: Path, new: Path) -> None:
    """A file that had to be recovered is not used at once: the exporter must first wait, as requests are unknown."""
    content = old.read_bytes()
    # The size of its pages.
    old.write_bytes(content[:16] + b"\xff\xff" + content[18:])
    with pytest.raises(StateError) as caught:
        move_merchant("m", old, new)
    assert str(caught.value).startswith(f"--from: {old} was damaged, and what can be read is kept; run the exporter")
    assert not any(rows_of(new, "m").values())


def test_wrong_names(old: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one line with the flag, exit code 1, and no new file."""
    (tmp_path / "text").write_text("hello")
    (tmp_path / "link").hardlink_to(new)
    for arguments, message in (
        (("x", old, tmp_path / "a"), f"--from: {old} has nothing of merchant x; its merchants: m, n"),
        (("m", tmp_path / "none", tmp_path / "a"), f"--from: {tmp_path / 'none'}: no such state file; check its name"),
        (("m", old, old), "--to: is the same file as --from; name another one"),
        (("o", new, tmp_path / "link"), "--to: is the same file as --from; name another one"),
        (("m", tmp_path / "text", new), f"{tmp_path / 'text'}: is not a state file of smartstream-exporter"),
        (("m", old, tmp_path / "text"), f"{tmp_path / 'text'}: is not a state file of smartstream-exporter"),
    ):
        merchant_id, source, target = map(str, arguments)
        assert main(["move-merchant", merchant_id, f"--from={source}", f"--to={target}"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "none").exists()


def test_the_command(old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what was moved, and what is left to do."""
    assert main(["move-merchant", "m", f"--from={old}", f"--to={new}"]) == 0
    assert capsys.readouterr().out == (
        f"ok: m is moved from {old} to {new}, 3 streams; "
        "move its entry in the configuration, too, before you start the exporters\n"
    )


def test_a_move_that_is_complete_already(old: Path, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To run the command again after a kill is no error, whether or not the first run was complete."""
    command = ["move-merchant", "m", f"--from={old}", f"--to={new}"]
    assert main(command) == 0
    moved = rows_of(new, "m")
    assert main(command) == 0
    assert rows_of(new, "m") == moved
    first, again = capsys.readouterr().out.splitlines()
    assert "m is moved from" in first
    assert "m was moved before from" in again
