"""`backup` and `move-merchant` with real exporters: counters go on, and end at what the API served."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exporter.model import Group, Target, end_of
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from tests.support.processes import MERCHANT, PATIENCE, Daemon, Program, configuration, python, wait_until
from tests.support.state import minutes_counted
from tests.support.world import final_sums

pytestmark = pytest.mark.real_time

COUNTER = "smartstream_merchant_plays_total"

# Each row exists at the end of its minute, zeros too.
FAULTS = Faults(late_minutes=0, omit_zero=False, rate_limit=1000)


@pytest.fixture
def world() -> World:
    return World(media=2)


@pytest.fixture
def config(world: World) -> Iterator[dict[str, Any]]:
    """A configuration for a simulated API."""
    with SimulatorServer(SimulatorApp(world, FaultSwitch(world, time.time, FAULTS), time.time)) as api:
        yield configuration(api.url, {"requests_per_minute": 500}, poll={"settle": "1s"})


def run(folder: Path, *arguments: str) -> str:
    """The output of a command that ends with 0."""
    with Program(python("-m", "exporter", *arguments), folder) as program:
        assert program.ended() == 0, program.output
        return program.output


def counted(daemon: Daemon) -> float:
    return daemon.values(COUNTER).get((MERCHANT,), 0.0)


def is_exact(state: Path, world: World) -> bool:
    """Whether the plays counted are what the API served in the minutes counted."""
    total, minutes = minutes_counted(state)
    return total == final_sums(world, MERCHANT, "", Target.PLAY_COUNT, Group.ALL, minutes)[""]


def test_a_backup_is_made_beside_the_exporter_and_goes_on(config: dict[str, Any], world: World, tmp_path: Path) -> None:
    """The exporter counts on undisturbed. An exporter with the backup has the counters of that time, catches up, and
    ends at the same sums.
    """
    state, output = tmp_path / "state.db", tmp_path / "backup.db"
    with Daemon(tmp_path, config) as daemon:
        wait_until("plays are counted", lambda: counted(daemon) > 0)
        then = counted(daemon)
        assert run(tmp_path, "backup", f"--storage.path={state}", "--output=backup.db").startswith("ok: backup.db is ")
        wait_until("more is counted", lambda: counted(daemon) > then)
        assert daemon.values("smartstream_state_writable") == {(): 1.0}
        assert "state file" not in daemon.output
        daemon.send(signal.SIGTERM)
        assert daemon.ended() == 0
    assert is_exact(state, world)
    newest, (saved, minutes) = minutes_counted(state)[0], minutes_counted(output)
    assert is_exact(output, world)
    assert then <= saved < newest
    for each in tmp_path.glob("state.db*"):
        each.unlink()
    output.rename(state)
    with Daemon(tmp_path, config) as daemon:
        wait_until("what was counted since is counted again", lambda: counted(daemon) >= newest)
        daemon.kill()
    assert is_exact(state, world)
    assert minutes_counted(state)[1].first == minutes.first


def test_a_merchant_moves_from_one_exporter_to_another(config: dict[str, Any], world: World, tmp_path: Path) -> None:
    """The second exporter goes on where the first one stopped: counters continue and are exact, and the requests that
    the first one sent count against the budget of the second.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with Daemon(first, config) as daemon:
        wait_until("plays are counted", lambda: counted(daemon) > 0)
        flags = (f"--from={first / 'state.db'}", f"--to={second / 'state.db'}")
        with Program(python("-m", "exporter", "move-merchant", MERCHANT, *flags), tmp_path) as refused:
            assert refused.ended() == 1
        assert "an exporter runs with" in refused.output
        then = counted(daemon)
        daemon.send(signal.SIGTERM)
        assert daemon.ended() == 0
    before, minutes = minutes_counted(first / "state.db")
    sends = sends_in(first / "state.db")
    assert before >= then > 0
    assert sends
    assert run(tmp_path, "move-merchant", MERCHANT, *flags).startswith(f"ok: {MERCHANT} is moved from ")
    assert sends_in(first / "state.db") == []
    assert sends_in(second / "state.db") == sends
    shown = []
    with Daemon(second, config) as daemon:
        daemon.wait_ready()
        shown.append(counted(daemon))
        wait_until("more is counted", lambda: counted(daemon) > before)
        daemon.kill()
    assert shown[0] >= then
    total, later = minutes_counted(second / "state.db")
    assert total > before
    assert later.first == minutes.first
    assert time.time() - end_of(later.last) < PATIENCE
    assert is_exact(second / "state.db", world)


def sends_in(path: Path) -> list[tuple[Any, ...]]:
    """The requests that a state file knows of."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT merchant_id, sent_at, boot, ticks FROM sends ORDER BY send_id").fetchall()
