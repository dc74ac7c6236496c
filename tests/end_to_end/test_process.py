"""The real process: start, outages, stop."""

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from exporter import daemon
from exporter.config.settings import Settings
from exporter.config.source import NoSource
from exporter.httpd.address import Address
from exporter.httpd.descriptors import CAP, needed
from exporter.signals import Signals
from exporter.simulator.app import SimulatorApp
from exporter.simulator.faults import FaultSwitch
from exporter.simulator.series import World
from exporter.simulator.server import SimulatorServer
from exporter.storage.schema import APPLICATION_ID, SCHEMA_VERSION
from exporter.storage.state import open_state
from exporter.web import WebFlags
from tests.support.busiest import busiest
from tests.support.processes import (
    PATIENCE,
    Daemon,
    Program,
    configuration,
    get,
    python,
    reserved_port,
    settle_in,
    silent_peer,
    wait_until,
)

pytestmark = pytest.mark.real_time


def simulated_api(sleep: Callable[[float], object] | None = None) -> SimulatorApp:
    world = World(media=6)
    return SimulatorApp(world, FaultSwitch(world, time.time), time.time, sleep)


@dataclass
class Outage:
    """An API that is not usable at first.

    Attributes:
        url: Its address.
        words: The text that the log must contain.
    """

    url: str
    words: str
    stack: contextlib.ExitStack = field(repr=False)

    def end(self) -> None:
        """End the outage."""


class NothingListens(Outage):
    """Connections to the port are refused."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        # Bound, so that no other program gets the port, but not listening.
        self.holder = stack.enter_context(socket.socket())
        self.holder.bind(("127.0.0.1", 0))
        self.port = self.holder.getsockname()[1]
        super().__init__(f"http://127.0.0.1:{self.port}/v1", "refused", stack)

    def end(self) -> None:
        self.holder.close()
        self.stack.enter_context(SimulatorServer(simulated_api(), port=self.port))


class TokenRefused(Outage):
    """The API refuses every request for a token."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.app = simulated_api()
        self.app.faults.set(token_refused=True)
        server = stack.enter_context(SimulatorServer(self.app))
        super().__init__(server.url, "the password is not accepted; check", stack)

    def end(self) -> None:
        self.app.faults.set(token_refused=False)


class ApiFails(Outage):
    """The API responds with 503."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.app = simulated_api()
        self.app.faults.set(error_rate=1.0, error_status=503)
        super().__init__(stack.enter_context(SimulatorServer(self.app)).url, "503", stack)

    def end(self) -> None:
        self.app.faults.set(error_rate=0.0)


@pytest.mark.parametrize("kind", [NothingListens, TokenRefused, ApiFails])
def test_starts_while_the_api_is_down_and_recovers(kind: Any, tmp_path: Path) -> None:
    """While the API is down there is one log line, and `smartstream_up` is 0. After the outage, the first round that
    may request a token shows plays.
    """
    with contextlib.ExitStack() as stack:
        outage = kind(stack)
        config = configuration(outage.url, poll={"settle": settle_in(20)})
        daemon = stack.enter_context(Daemon(tmp_path, config))
        daemon.wait_ready()
        assert daemon.values("smartstream_up") == {("broadcaster",): 0}
        assert daemon.values("smartstream_merchant_last_minute_plays") == {}
        assert daemon.get("/-/healthy").status_code == 200
        outage.end()
        wait_until("the exporter recovers", lambda: daemon.values("smartstream_up") == {("broadcaster",): 1})
        wait_until("plays are shown", lambda: bool(daemon.values("smartstream_merchant_last_minute_plays")))
        started, warning = daemon.events
        assert "msg=started" in started
        assert "level=warn" in warning
        assert outage.words in warning
        assert terminated(daemon) == 0


def test_starts_when_the_api_host_does_not_resolve(tmp_path: Path) -> None:
    """An unknown host is one log line; the process keeps running, and stops on a signal."""
    with Daemon(tmp_path, configuration("http://api.invalid/v1")) as daemon:
        daemon.wait_ready()
        assert daemon.values("smartstream_up") == {("broadcaster",): 0}
        assert requests_sent(daemon) == {("error", "auth-token", "broadcaster")}
        assert len(daemon.lines) == 2
        assert "api.invalid" in daemon.lines[1]
        assert terminated(daemon) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_process(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM and SIGINT both stop the process with exit code 0, and the log names the signal."""
    with SimulatorServer(simulated_api()) as api, Daemon(tmp_path, configuration(api.url)) as daemon:
        daemon.wait_ready()
        assert terminated(daemon, number) == 0
        stopping, stopped = daemon.lines[-2:]
        assert f"msg=stopping component=daemon signal={number.name}" in stopping
        assert "msg=stopped" in stopped


def test_a_suspended_process_continues(tmp_path: Path) -> None:
    """After SIGSTOP and SIGCONT, also if it was stopped for longer than one wait, the process polls, serves and ends as
    before.
    """
    app = simulated_api()
    with (
        SimulatorServer(app) as api,
        Daemon(tmp_path, configuration(api.url, poll={"settle": settle_in(15)})) as daemon,
    ):
        daemon.wait_ready()
        for seconds in (0.1, 0.1, 1.5, 0.1, 2.5):
            daemon.send(signal.SIGSTOP)
            time.sleep(seconds)
            daemon.send(signal.SIGCONT)
            time.sleep(0.1)
            assert daemon.get("/metrics").status_code == 200
        before = sum(app.journal.counts().values())
        wait_until("it polls again", lambda: sum(app.journal.counts().values()) > before)
        assert terminated(daemon) == 0
        daemon.line("msg=stopping component=daemon signal=SIGTERM")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """With a request that hangs, a second signal ends the process at once."""
    with contextlib.ExitStack() as stack:
        hanging = stack.enter_context(silent_peer())
        config = configuration(f"http://127.0.0.1:{hanging.getsockname()[1]}/v1", api={"timeout": "1m"})
        daemon = stack.enter_context(Daemon(tmp_path, config))
        hanging.settimeout(PATIENCE)
        stack.enter_context(hanging.accept()[0])
        daemon.send(signal.SIGTERM)
        daemon.line("msg=stopping")
        assert terminated(daemon, signal.SIGINT) == 128 + signal.SIGINT


def test_a_hanging_disk_does_not_prevent_the_stop(tmp_path: Path) -> None:
    """If the state file cannot be closed, the process still ends with 0 and logs one line."""
    (tmp_path / "slow.py").write_text(
        "import sys, time\n"
        "from exporter import cli, daemon\n"
        "from exporter.storage import state\n"
        "daemon.LONGEST_END = 1.0\n"
        "state.State.close = lambda self: time.sleep(600)\n"
        "sys.exit(cli.main(sys.argv[4:]))\n"
    )
    with SimulatorServer(simulated_api()) as api:
        # Runs in place of `python -m exporter`.
        under = (sys.executable, str(tmp_path / "slow.py"))
        with Daemon(tmp_path, configuration(api.url), under=under, environ={"PYTHONPATH": str(Path.cwd())}) as daemon:
            daemon.wait_ready()
            assert terminated(daemon) == 0
            assert "stopped before the state file was closed; nothing is lost" in daemon.lines[-1]


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """A pipe that is full and has no reader that empties it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(512))
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


def broken_pipe() -> int:
    """A pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def with_output(
    folder: Path, url: str, port: int, output: int | None, *, under: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """The daemon with its standard output and error connected to a file descriptor."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration(url, poll={"settle": settle_in(5)})))
    flags = (f"--config.file={path}", f"--storage.path={folder / 'state.db'}", f"--web.listen-address=127.0.0.1:{port}")
    return subprocess.Popen([*under, *python("-m", "exporter"), *flags], stdout=output, stderr=output)


def assert_works_and_ends(process: subprocess.Popen[bytes], app: SimulatorApp, port: int) -> None:
    """The daemon polls, serves, and ends well within ten seconds."""
    try:
        wait_until("it has polled", lambda: bool(app.journal.counts()))
        wait_until("it is ready", lambda: get(f"http://127.0.0.1:{port}/-/ready").status_code == 200)
        assert get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("fault", ["reader hangs", "reader is gone", "disk is full"])
def test_a_blocked_log_stops_nothing(fault: str, full_pipe: int, free_port: int, tmp_path: Path) -> None:
    """While the log cannot be written, the process polls and serves, and SIGTERM ends it with 0."""
    app = simulated_api()
    app.faults.set(error_rate=0.5, error_status=500)
    with SimulatorServer(app) as api, Path("/dev/full").open("wb") as full:
        output = {"reader hangs": full_pipe, "reader is gone": broken_pipe(), "disk is full": full.fileno()}[fault]
        process = with_output(tmp_path, api.url, free_port, output)
        if fault == "reader hangs":
            wait_until("it has polled", lambda: bool(app.journal.counts()))
            before = sum(app.journal.counts().values())
            wait_until("it polls in the next round", lambda: sum(app.journal.counts().values()) > before + 1)
        assert_works_and_ends(process, app, free_port)


def test_no_file_gets_the_number_of_a_closed_standard_stream(free_port: int, tmp_path: Path) -> None:
    """Started without standard streams, the exporter works, and none of its files gets the number
    of a standard stream.
    """
    app = simulated_api()
    closed = ("/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
    with SimulatorServer(app) as api:
        process = with_output(tmp_path, api.url, free_port, None, under=closed)
        wait_until("it has polled", lambda: bool(app.journal.counts()))
        files = [Path(f"/proc/{process.pid}/fd/{number}").readlink() for number in range(3)]
        assert_works_and_ends(process, app, free_port)
    assert files == [Path("/dev/null")] * 3
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("", signal.SIGTERM, 0),
        ("demo", signal.SIGINT, 0),
        ("--log.level=warn", signal.SIGHUP, 7),
        ("plan", signal.SIGINT, 130),
    ],
)
def test_a_signal_during_the_imports_is_not_lost(command: str, number: signal.Signals, code: int) -> None:
    """It ends the process without output, or has no effect, before anything has started."""
    program = f"""
import os, sys, types
sys.argv[1:] = {command.split()!r}
def main():
    os.kill(os.getpid(), {int(number)})
    return 7
sys.modules["exporter.cli"] = types.SimpleNamespace(main=main)
from exporter.__main__ import main
sys.exit(main())
"""
    with Program(python("-c", program), Path.cwd()) as process:
        assert process.ended() == code
        assert process.output == ""


def test_a_signal_during_the_opening_of_the_state_file_ends_it(tmp_path: Path) -> None:
    """A disk that hangs, or the long recovery of a large file, does not prevent the stop."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(configuration("http://127.0.0.1:9/v1")))
    program = """
import sys, time
from exporter import daemon
from exporter.__main__ import main
def hang(*_):
    print("opening", flush=True)
    while True:
        time.sleep(1)
daemon.open_state = hang
sys.argv[1:] = ["--config.file=config.yaml"]
sys.exit(main())
"""
    with Program(python("-c", program), tmp_path) as process:
        process.line("opening")
        process.send(signal.SIGHUP)
        process.send(signal.SIGTERM)
        assert process.ended() == 0
        assert "stopped during startup; nothing is lost" in process.lines[-1]


def test_sigterm_ends_it_within_ten_seconds_whatever_hangs(tmp_path: Path) -> None:
    """An API that never responds and clients that never finish their requests delay the stop by less than 10 s."""
    with contextlib.ExitStack() as stack:
        hanging = stack.enter_context(silent_peer())
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}/v1"
        merchants = [{"id": f"merchant-{number}"} for number in range(3)]
        config = configuration(url, *merchants, api={"timeout": "1m"})
        daemon = stack.enter_context(Daemon(tmp_path, config))
        for _ in merchants:
            hanging.settimeout(120)
            stack.enter_context(hanging.accept()[0])
        for text in [
            b"",
            b"GET /metrics HTTP/1.1\r\nHost:",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 300,
        ]:
            stack.enter_context(connect(daemon)).sendall(text)
        began = time.monotonic()
        assert terminated(daemon) == 0
        assert time.monotonic() - began < 10
        assert "a request or the disk did not respond" in daemon.lines[-1]


def test_after_a_kill_the_next_start_works_at_once(tmp_path: Path) -> None:
    """After kill -9 the same state file and the same port can be used at once."""
    with SimulatorServer(simulated_api()) as api:
        with Daemon(tmp_path, configuration(api.url)) as daemon:
            daemon.wait_ready()
            address = daemon.get("/").url.split("/")[2]
            daemon.kill()
        with Daemon(tmp_path, configuration(api.url), listen=address) as daemon:
            daemon.wait_ready()
            assert len(daemon.events) == 1
            assert terminated(daemon) == 0


def test_idle_connections_do_not_block_a_scrape(tmp_path: Path) -> None:
    """With 200 idle clients, /metrics and the pages respond."""
    with SimulatorServer(simulated_api()) as api, Daemon(tmp_path, configuration(api.url)) as daemon:
        daemon.wait_ready()
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(connect(daemon))
            for path in ("/metrics", "/", "/-/healthy", "/-/ready", "/config"):
                assert daemon.get(path).status_code == 200


def test_it_works_with_few_file_descriptors(tmp_path: Path) -> None:
    """With 64 file descriptors and 100 idle clients, /metrics responds and the log has only its usual line."""
    few = ("/bin/sh", "-c", 'ulimit -n 64; exec "$0" "$@"')
    with SimulatorServer(simulated_api()) as api, Daemon(tmp_path, configuration(api.url), under=few) as daemon:
        daemon.wait_ready()
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connect(daemon))
            for _ in range(3):
                assert daemon.values("smartstream_up") == {("broadcaster",): 1}
        assert terminated(daemon) == 0
        assert [line for line in daemon.lines if "level=info" not in line] == []


def test_the_soft_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    """A low soft limit is raised where the hard limit is higher."""
    low = ("/bin/sh", "-c", 'ulimit -S -n 40; exec "$0" "$@"')
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with Daemon(tmp_path, configuration("http://127.0.0.1:9/v1"), under=low) as daemon:
        daemon.wait_ready()
        assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[0] == min(hard, CAP)


def test_too_few_file_descriptors_for_the_merchants_are_one_line(tmp_path: Path) -> None:
    """If the connections to the API alone can exceed the limit, a log line gives the required
    number and the solution.
    """
    few = ("/bin/sh", "-c", 'ulimit -n 64; exec "$0" "$@"')
    merchants = [{"id": f"merchant-{number}"} for number in range(10)]
    with Daemon(tmp_path, configuration("http://127.0.0.1:9/v1", *merchants), under=few) as daemon:
        line = daemon.line("the open file limit is too low").string
        assert "level=warn " in line
        assert f"limit=64 needed={needed(10, 4)} merchants=10 concurrency=4" in line


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """If the address is in use, the process ends with 1 and one line that names the address."""
    with silent_peer() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Daemon(tmp_path, configuration("http://127.0.0.1:9/v1"), listen=address) as daemon:
            assert daemon.ended() == 1
            assert only_line(daemon).startswith(
                f"smartstream-exporter: --web.listen-address: cannot listen on {address}: Address already in use; "
            )


def test_a_state_file_in_use_is_one_line(tmp_path: Path) -> None:
    """A second process with the same state file ends with 1; the first one continues."""
    config = configuration("http://127.0.0.1:9/v1")
    with Daemon(tmp_path, config) as first:
        first.wait_ready()
        with Daemon(tmp_path, config) as second:
            assert second.ended() == 1
            assert only_line(second).startswith(
                f"smartstream-exporter: {tmp_path / 'state.db'}: another smartstream-exporter uses this state file; "
            )
        assert first.get("/-/healthy").status_code == 200


def test_a_newer_state_file_is_one_line(tmp_path: Path) -> None:
    """A state file of a later release is not changed."""
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with Daemon(tmp_path, configuration("http://127.0.0.1:9/v1")) as daemon:
        assert daemon.ended() == 1
        assert "written by a newer release" in only_line(daemon)
    assert path.read_bytes() == before


def test_a_file_of_another_program_is_one_line(tmp_path: Path) -> None:
    """A file of another program that --storage.path names by mistake is not changed, and no file
    is created beside it.
    """
    path = tmp_path / "state.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    before = path.read_bytes()
    with Daemon(tmp_path, configuration("http://127.0.0.1:9/v1")) as daemon:
        assert daemon.ended() == 1
        assert "is not a state file of smartstream-exporter" in only_line(daemon)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("state.db")] == ["state.db"]


def test_a_state_file_damaged_during_operation_is_recovered(tmp_path: Path) -> None:
    """The process restarts by itself with all readable data, at the same address."""
    with SimulatorServer(simulated_api()) as api:
        config = configuration(api.url, poll={"settle": settle_in(15)})
        with reserved_port() as port, Daemon(tmp_path, config, listen=f"127.0.0.1:{port}") as daemon:
            wait_until("plays are shown", lambda: bool(daemon.values("smartstream_merchant_last_minute_plays")))
            before = daemon.values("smartstream_merchant_plays_total")
            damage_schema(tmp_path / "state.db")
            daemon.line("msg=.restarting to recover the state file. .*the state file is damaged")
            wait_until("it has restarted", lambda: sum("msg=started" in line for line in daemon.lines) == 2)
            assert daemon.get("/-/healthy").status_code == 200
            assert daemon.values("smartstream_state_writable") == {(): 1}
            assert daemon.values("smartstream_merchant_plays_total") == before
            assert "Traceback" not in daemon.output
            assert terminated(daemon) == 0


def test_the_external_url_is_on_the_metrics_page(tmp_path: Path) -> None:
    """The flag ends up where the alert rules find it, with the other values that they need of the configuration."""
    config = configuration("http://api.invalid/v1", poll={"max_staleness": "20m"}, api={"timezone": "UTC"})
    with Daemon(tmp_path, config, "--web.external-url=https://example.com/smartstream/") as daemon:
        assert daemon.values("smartstream_web_info") == {("https://example.com/smartstream",): 1}
        assert daemon.values("smartstream_max_staleness_seconds") == {(): 1200}
        assert daemon.values("smartstream_api_utc_offset_seconds") == {("UTC",): 0}


def test_a_second_damage_within_an_hour_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two damages within an hour show that the disk fails: each recovery would lose more data."""
    starts: list[float] = []
    now = [0.0]

    def start(settings: Settings, *_: object) -> Settings:
        starts.append(now[0])
        now[0] += daemon.DAMAGED_AGAIN + 1 if len(starts) < 3 else 60
        return settings

    monkeypatch.setattr(daemon, "_run", start)
    monkeypatch.setattr("exporter.daemon.time.monotonic", lambda: now[0])
    with structlog.testing.capture_logs() as logs, Signals(()) as signals:
        origin, web = daemon.Origin(NoSource()), WebFlags((Address("", 0),))
        assert daemon.run(Settings.model_construct(), origin, web, signals) == 1
    assert len(starts) == 3
    assert [line["event"] for line in logs] == ["the state file is damaged again; check the disk"]


def damage_schema(path: Path) -> None:
    """Make the schema entry of a table invalid, for every process that reads it next."""
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE sends (nonsense' WHERE name = 'sends'")
        version = db.execute("PRAGMA schema_version").fetchone()[0]
        db.execute(f"PRAGMA schema_version = {version + 1}")
        db.commit()


def test_a_damaged_state_file_is_renamed(tmp_path: Path) -> None:
    """The exporter continues with the readable data of a damaged file, and one log line gives the file's new name."""
    path = tmp_path / "state.db"
    open_state(path, time.time).close()
    damaged = path.read_bytes()[:100] + bytes(range(256)) * 64
    path.write_bytes(damaged)
    with SimulatorServer(simulated_api()) as api, Daemon(tmp_path, configuration(api.url)) as daemon:
        aside = daemon.line(r"the state file is damaged .* the damaged file is (\S+); lost:")[1]
        assert (tmp_path / aside).read_bytes() == damaged
        daemon.line("msg=started")
        assert [line for line in daemon.events if "damaged" not in line and "msg=started" not in line] == []
        assert terminated(daemon) == 0


@pytest.mark.parametrize("folder", ["missing", "config.yaml"])
def test_a_path_without_a_folder_is_one_line(folder: str, tmp_path: Path) -> None:
    """If the folder does not exist, or is a file, the process ends with 1 and a line that says what to do."""
    path = tmp_path / folder / "state.db"
    config = configuration("http://127.0.0.1:9/v1")
    with Daemon(tmp_path, config, f"--storage.path={path}") as daemon:
        assert daemon.ended() == 1
        assert only_line(daemon).startswith(f"smartstream-exporter: {path}: cannot be made or opened here (")
        assert "--storage.path" in daemon.lines[0]


def test_a_full_disk_at_the_start_is_one_line(tmp_path: Path) -> None:
    """If the state file cannot be written, the exporter ends with 1 and says so."""
    full_disk = ("/bin/sh", "-c", 'ulimit -f 0; exec "$0" "$@"')
    # Coverage could not write its data either.
    unmeasured = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
    with Daemon(tmp_path, configuration("http://127.0.0.1:9/v1"), under=full_disk, environ=unmeasured) as daemon:
        assert daemon.ended() == 1
        assert "state.db: cannot use the state file (" in only_line(daemon)
        assert "check the disk" in daemon.lines[0]


def test_a_disk_that_fills_up_is_one_line_and_no_end(tmp_path: Path) -> None:
    """While the disk is full, no request is sent and pages respond; with free space again, polling continues."""
    arrived, go_on = threading.Event(), threading.Event()

    def hold(seconds: float) -> None:
        arrived.set()
        go_on.wait(seconds)

    app = simulated_api(sleep=hold)
    app.faults.set(hang_rate=1.0, hang_seconds=PATIENCE)
    with SimulatorServer(app) as api:
        config = configuration(api.url, api={"timeout": "1m"}, poll={"settle": settle_in(15)})
        with Daemon(tmp_path, config) as daemon:
            assert arrived.wait(PATIENCE)
            soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, hard))
            go_on.set()
            warning = daemon.line(r"level=warn .*state\.db: writing failed")
            assert "nothing is lost" in warning.string
            assert daemon.get("/-/healthy").status_code == 200
            assert requests_sent(daemon) == {("200", "auth-token", "broadcaster")}
            wait_until("a metric reports it", lambda: daemon.values("smartstream_state_writable") == {(): 0})
            wait_until("no merchant is up", lambda: daemon.values("smartstream_up") == {("broadcaster",): 0})
            status = daemon.get("/api/v1/status").json()
            assert status["health"] == "bad"
            assert "state.db: " in status["summary"]
            assert [problem["subject"] for problem in status["problems"]] == ["state file"]
            assert "state.db: " in daemon.get("/").text
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (soft, hard))
            wait_until("plays are shown", lambda: bool(daemon.values("smartstream_merchant_last_minute_plays")))
            assert daemon.values("smartstream_state_writable") == {(): 1}
            assert daemon.values("smartstream_up") == {("broadcaster",): 1}
            assert daemon.get("/api/v1/status").json()["problems"] == []
            assert len(daemon.events) == 2
            assert terminated(daemon) == 0


def test_the_budget_survives_a_restart(tmp_path: Path) -> None:
    """Starts in quick succession together send no more requests than one minute's budget."""
    app = simulated_api()
    budget = 7
    media = [{"id": media_id} for media_id in app.world.catalog("broadcaster")]
    with SimulatorServer(app) as api:
        config = configuration(api.url, {"requests_per_minute": budget, "media": media})
        for _ in range(3):
            with Daemon(tmp_path, config) as daemon:
                daemon.line("msg=started")
                wait_until("the budget is spent", lambda: sum(app.journal.counts().values()) >= budget)
                daemon.kill()
    assert busiest(app.journal, "broadcaster") == budget


def requests_sent(daemon: Daemon) -> set[tuple[str, ...]]:
    """Code, endpoint and merchant of the requests that were sent."""
    return {labels for labels, count in daemon.values("smartstream_api_requests_total").items() if count}


def terminated(daemon: Daemon, number: signal.Signals = signal.SIGTERM) -> int:
    """Send it a signal; return the exit code."""
    daemon.send(number)
    return daemon.ended()


def only_line(daemon: Daemon) -> str:
    """Its output, which must be a single line."""
    (line,) = daemon.lines
    return line


def connect(daemon: Daemon) -> socket.socket:
    """Open a connection to the daemon."""
    host, _, port = daemon.line(r"open=http://(\S+?)/")[1].rpartition(":")
    return socket.create_connection((host, int(port)))
