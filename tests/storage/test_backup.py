"""A backup is a whole state file of one moment, and nobody notices that it is made."""

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.errors import InputError, StateError
from exporter.storage import backup
from exporter.storage.backup import back_up
from exporter.storage.schema import PAGE
from tests.support.rows import fill, opened, rows_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file."""
    path = tmp_path / "state.db"
    with opened(path) as state, state.transaction() as db:
        fill(db, "m", range(1, 4))
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "backup" / "copy.db"


@pytest.fixture(autouse=True)
def folder(output: Path) -> Path:
    """The folder of the backup."""
    output.parent.mkdir()
    return output.parent


def test_a_copy_of_a_stopped_exporter(path: Path, output: Path) -> None:
    """It has every row, is for its owner alone, and nothing is written beside the state file."""
    content, files = path.read_bytes(), sorted(path.parent.iterdir())
    assert back_up(path, output) == output.stat().st_size > 0
    assert path.read_bytes() == content
    assert sorted(path.parent.iterdir()) == files
    assert list(output.parent.iterdir()) == [output]
    assert output.stat().st_mode & 0o777 == 0o600
    assert rows_of(output, "m") == rows_of(path, "m")


def test_a_copy_while_the_exporter_writes(path: Path, output: Path) -> None:
    """It has what is committed, transactions as a whole: no write fails or waits, and each copy is of one moment."""
    stop, failures = threading.Event(), list[BaseException]()
    with opened(path) as state:

        def write() -> None:
            try:
                while not stop.is_set():
                    with state.transaction() as db:
                        db.execute("UPDATE merchants SET revisions_up = revisions_up + 1")
                        db.execute("UPDATE merchants SET revisions_down = revisions_up")
            except BaseException as error:  # noqa: BLE001 - the test fails with it
                failures.append(error)

        with state.transaction() as db:
            db.execute("UPDATE merchants SET revisions_up = 0, revisions_down = 0")
        writer = threading.Thread(target=write)
        writer.start()
        copies = [output.with_name(f"{number}.db") for number in range(5)]
        try:
            for copy in copies:
                back_up(path, copy)
        finally:
            stop.set()
            writer.join()
        assert failures == []
        assert state.problem is None
        with state.transaction() as db:
            db.execute("UPDATE merchants SET horizon = 7")
    found = []
    for copy in copies:
        with contextlib.closing(sqlite3.connect(copy)) as db:
            up, down = db.execute("SELECT revisions_up, revisions_down FROM merchants").fetchone()
        assert up == down
        found.append(up)
    assert found == sorted(found)
    assert found[-1] > found[0]
    assert rows_of(path, "m")["merchants"][0][1] == 7


def test_a_copy_of_a_killed_exporter(path: Path, output: Path, tmp_path: Path) -> None:
    """What is only in the WAL that a kill has left is in the copy, too."""
    killed = tmp_path / "killed"
    killed.mkdir()
    with opened(path) as state:
        with state.transaction() as db:
            db.execute("UPDATE merchants SET horizon = 8")
        for each in path.parent.glob("state.db*"):
            (killed / each.name).write_bytes(each.read_bytes())
    back_up(killed / path.name, output)
    assert rows_of(output, "m")["merchants"][0][1] == 8


def test_an_exporter_that_starts_meanwhile(path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it writes while the file is copied without a WAL, the copy is made again."""
    connect, times = backup.connect_read_only, [0]

    def connect_and_write(place: Path) -> sqlite3.Connection:
        found = connect(place)
        times[0] += 1
        if times[0] == 1:
            with opened(path) as state, state.transaction() as db:
                db.execute("UPDATE merchants SET horizon = 9")
        return found

    monkeypatch.setattr(backup, "connect_read_only", connect_and_write)
    back_up(path, output)
    assert times == [2]
    assert rows_of(output, "m")["merchants"][0][1] == 9


@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_an_existing_file_is_kept(path: Path, output: Path, kind: str) -> None:
    """The output is never replaced, also if it appears while the copy is made."""
    if kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to("nothing")
    with pytest.raises(InputError) as caught:
        back_up(path, output)
    assert str(caught.value) == (f"{output}: exists already, and is left as it is; delete it, or name another --output")
    assert list(output.parent.iterdir()) == [output]


def test_a_file_that_appears_meanwhile_is_kept(path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's file is not replaced, and the partial copy is removed."""
    copy = backup._copy

    def copy_and_lose(source: Path, partial: Path) -> None:
        copy(source, partial)
        output.write_text("theirs")

    monkeypatch.setattr(backup, "_copy", copy_and_lose)
    with pytest.raises(InputError, match="exists already"):
        back_up(path, output)
    assert output.read_text() == "theirs"
    assert list(output.parent.iterdir()) == [output]


def test_an_interrupted_backup(path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        back_up(path, output)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("what", ["page", "value"])
def test_a_damaged_file_is_not_copied(path: Path, output: Path, what: str) -> None:
    """A backup is whole, or it is none."""
    if what == "page":
        content = bytearray(path.read_bytes())
        content[PAGE] = 0xFF
        path.write_bytes(content)
    else:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA ignore_check_constraints = ON")
            db.execute("UPDATE merchants SET lost_minutes = -1")
    with pytest.raises(StateError) as caught:
        back_up(path, output)
    assert str(caught.value).startswith(
        f"{path}: is damaged, so it is not copied; "
        if what == "value"
        else f"{path}: cannot be copied to {output} (database disk image is malformed); check "
    )
    assert list(output.parent.iterdir()) == []


def test_wrong_files(path: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is one line that names the file and the fix, with exit code 1."""
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    nowhere = tmp_path / "nowhere" / "copy.db"
    for source, copy, message in (
        (tmp_path / "none", output, f"{tmp_path / 'none'}: no state file to copy; name that of the exporter with"),
        (tmp_path / "text", output, f"{tmp_path / 'text'}: is not a state file of smartstream-exporter"),
        (tmp_path / "pipe", output, f"{tmp_path / 'pipe'}: is not a state file of smartstream-exporter"),
        (path, path, f"{path}: exists already, and is left as it is"),
        (path, nowhere, f"{nowhere}: cannot be created: No such file or directory; check the folder and its rights"),
    ):
        assert main(["backup", f"--storage.path={source}", f"--output={copy}"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert list(output.parent.iterdir()) == []


def test_the_command_reads_the_path_in_the_configuration(
    path: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --storage.path, the state file is that of the configuration."""
    config = tmp_path / "config.yaml"
    config.write_text(
        f"merchants: [{{id: m, api_key: k, mail_address: a@b, password: p}}]\nstorage: {{path: {path}}}\n"
    )
    assert main(["backup", f"--config.file={config}", f"--output={output}"]) == 0
    assert capsys.readouterr().out == f"ok: {output} is a copy of {path}, {output.stat().st_size} bytes\n"
    assert rows_of(output, "m") == rows_of(path, "m")
