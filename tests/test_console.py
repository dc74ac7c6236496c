"""The output of commands when it is closed early, full, or cannot encode a character."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from exporter.storage.schema import PAGE
from exporter.storage.state import open_state
from tests.support.processes import PATIENCE, configuration, merchant, python

CONFIG = configuration("http://127.0.0.1:9/v1", merchant(id="放送局", media=[{"id": "番組"}]))

# Terminals with no Japanese characters, or only some.
TERMINALS: Mapping[str, Mapping[str, str]] = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "cp932": {"PYTHONIOENCODING": "cp932"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration, with names in Japanese."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A configuration with an error in a value that is hard to show."""
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "鍵🔑é": 1}, allow_unicode=True), encoding="utf-8")
    return path


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        python("-m", "exporter", *arguments),
        env={**os.environ, **(environ or {})},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def plays(tmp_path: Path) -> Path:
    """A recording of a media with a Japanese name, with a fall of the plays."""
    path = tmp_path / "plays.csv"
    first = 1_767_571_200
    rows = [f"{first + 60 * at},朝🔑é,{4 if 300 <= at < 340 else 40 + at * 7 % 5}" for at in range(480)]
    path.write_text("\n".join(["minute,media_id,plays", *rows, ""]), encoding="utf-8")
    return path


@pytest.mark.unmeasured
@pytest.mark.parametrize("terminal", TERMINALS)
def test_unsupported_characters_are_escaped(terminal: str, config: Path, wrong: Path, plays: Path) -> None:
    """In every command, a character that the output cannot encode is escaped, and is never a traceback."""
    commands: dict[tuple[str, ...], int] = {
        ("check-config", str(wrong)): 1,
        ("plan", f"--config.file={config}"): 0,
        ("replay", f"--csv={plays}"): 0,
        (f"--config.file={config}", f"--storage.path={config.with_name('無🔑é') / 'state.db'}"): 1,
        ("simulate", "--timezone=朝🔑é"): 2,
    }
    environ = {"COLUMNS": "200", **TERMINALS[terminal]}
    shown = {command: run(*command, environ=environ) for command in commands}
    assert {command: done.returncode for command, done in shown.items()} == commands
    texts = {command: done.stdout + done.stderr for command, done in shown.items()}
    assert [text for text in texts.values() if b"Traceback" in text or b"Error:" in text] == []
    escaped = [command for command, text in texts.items() if b"\\" in text]
    assert escaped if terminal == "cp932" else len(escaped) == len(commands)


def test_the_log_escapes_unsupported_characters(config: Path) -> None:
    """The daemon's log in ASCII shows the path of a file with a Japanese name."""
    path = config.with_name("状態")
    path.mkdir()
    open_state(path / "state.db", time.time).close()
    with (path / "state.db").open("r+b") as file:
        # The pages after the first, which identifies the file as the exporter's.
        file.seek(PAGE)
        file.write(b"\xff" * PAGE)
    command = python("-m", "exporter", f"--config.file={config}", f"--storage.path={path / 'state.db'}")
    environ = {**os.environ, **TERMINALS["ASCII"]}
    with subprocess.Popen(
        [*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, env=environ
    ) as daemon:
        assert daemon.stderr is not None
        line = daemon.stderr.readline()
        daemon.kill()
    assert b"\\u72b6\\u614b/state.db: the state file is damaged" in line


# By the redirection of the shell; 3 is a pipe whose other end is closed.
OUTPUTS = {"closed pipe": ">&3", "full disk": ">/dev/full", "closed": ">&-"}


def into(output: str, *arguments: str, unbuffered: str) -> tuple[int, str]:
    """Run a command; return its exit code and its standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [
            "/bin/bash",
            "-c",
            f'exec 3>&{writer}; exec "$0" "$@" {OUTPUTS[output]}',
            *python("-m", "exporter", *arguments),
        ],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        timeout=PATIENCE,
        check=False,
    )
    os.close(writer)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_unwritable_output_is_no_traceback(output: str, unbuffered: str, config: Path) -> None:
    """A pipe closed early is silent, a full disk is one line; both end with 1. A closed output is no error."""
    code, shown = into(output, "check-config", str(config), unbuffered=unbuffered)
    assert code == (0 if output == "closed" else 1)
    full = "smartstream-exporter: cannot write the output: No space left on device\n"
    assert shown == (full if output == "full disk" else "")


def test_help_into_a_closed_pipe_is_no_traceback() -> None:
    """`--help | head -0` prints no error."""
    _, shown = into("closed pipe", "--help", unbuffered="")
    assert shown == ""
