"""The daemon: one process that polls, counts and serves until a signal."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import structlog

from exporter import __version__, logs
from exporter.assembly import Polling, build_polling
from exporter.clock import SystemClock
from exporter.config.settings import Settings
from exporter.httpd.address import Address
from exporter.httpd.descriptors import max_connections, raise_limit
from exporter.httpd.server import Server
from exporter.in_force import InForce
from exporter.polling.scheduler import Scheduler
from exporter.process_health import ProcessHealth
from exporter.reload import Reloader, Source
from exporter.serving.instruments import Instruments
from exporter.serving.routes import make_server
from exporter.signals import STOP_SIGNALS, Signals
from exporter.storage.state import State, open_state
from exporter.web import build_app

log = structlog.get_logger("daemon")

# Seconds that running rounds get to end. SIGTERM ends the process within 10 s, even if a request hangs.
GRACE = 5.0

# Seconds after which the process ends even if closing the state file hangs, on a disk for example.
LONGEST_END = 8.5

# Seconds. A state file that is damaged twice within this time is on a failing disk.
DAMAGED_AGAIN = 3600.0


def caught_signals() -> Signals:
    """The signals that `run` waits for, as a context that must begin before the first thread."""
    return Signals((*STOP_SIGNALS, signal.SIGHUP))


@dataclass(frozen=True, slots=True)
class Options:
    """What the flags say.

    Attributes:
        listen: The address to serve on.
        external_url: The address at which people reach the pages, without a final slash; "" if unknown.
        reload_interval: Seconds between two looks whether a file of the configuration has changed; 0 for none.
    """

    listen: Address
    external_url: str = ""
    reload_interval: float = 0.0


def run(
    settings: Settings,
    source: Source | None,
    options: Options,
    signals: Signals,
    started: Callable[[str], None] = lambda _url: None,
) -> int:
    """Poll, count and serve until SIGTERM or SIGINT.

    Args:
        settings: The configuration.
        source: Where it comes from, to read it again; None where there is no such place.
        options: What the flags say.
        signals: From `caught_signals`.
        started: Called with the exporter's URL each time it has started: once more after damage of the state file.

    Returns:
        The exit code.

    Raises:
        StateError: The state file cannot be used.
        InputError: Cannot listen on the address.
    """
    open_files = raise_limit()
    ended_at = float("-inf")
    while isinstance(outcome := _run(settings, source, options, signals, open_files, started), Settings):
        # As it was reloaded meanwhile.
        settings = outcome
        before, ended_at = ended_at, time.monotonic()
        if ended_at - before < DAMAGED_AGAIN:
            log.error("the state file is damaged again; check the disk")
            return 1
    return outcome


def _run(
    settings: Settings,
    source: Source | None,
    options: Options,
    signals: Signals,
    open_files: int,
    started: Callable[[str], None],
) -> int | Settings:
    """Poll, count and serve until a signal, or until the state file turns out to be damaged.

    Returns:
        The exit code; or the configuration in force, to open the state file again, which recovers what is readable.
    """
    with signals.ending_at_once(lambda: log.info("stopped during startup; nothing is lost")):
        process = _Process.build(settings, source, options, open_files)
    process.start()
    started(process.url)
    stopped_by = _wait(signals, process)
    if stopped_by is None:
        problem = process.state.problem
        log.warning("restarting to recover the state file", problem=problem.message if problem else "")
    else:
        log.info("stopping", signal=stopped_by.name)
        too_late = "stopped before the state file was closed; nothing is lost"
        signals.end_within(LONGEST_END, lambda: log.warning(too_late))
    if process.stop():
        if stopped_by is None:
            return process.polling.settings
        log.info("stopped")
        return 0
    # Python would wait for its threads, and they wait for a peer that does not answer. All counts are committed.
    log.warning("stopped while a request or the disk did not respond; nothing is lost")
    logs.flush()
    os._exit(0 if stopped_by else 1)


def _wait(signals: Signals, process: "_Process") -> signal.Signals | None:
    """Wait for a signal to stop, or until the state file turns out to be damaged."""
    while not process.state.damaged:
        received = signals.wait(1.0)
        if received in STOP_SIGNALS:
            return received
        if received == signal.SIGHUP:
            process.reloader.request()
        process.reloader.watch()
        process.schedule.watch_clock()
    return None


@dataclass(frozen=True, slots=True)
class _Process:
    """Everything that runs between a start and a stop.

    Attributes:
        clock: The clock; stopping it ends every sleep.
        state: The state file.
        polling: The parts that poll and count.
        schedule: The scheduler of the rounds.
        health: The problems of the process.
        telemetry: The metrics of the exporter itself.
        reloader: Reloads the configuration.
        server: The web server.
        in_force: The configuration in force.
    """

    clock: SystemClock
    state: State
    polling: Polling
    schedule: Scheduler
    health: ProcessHealth
    telemetry: Instruments
    reloader: Reloader
    server: Server
    in_force: InForce

    @classmethod
    def build(cls, settings: Settings, source: Source | None, options: Options, open_files: int) -> Self:
        """Open the state file and the port, and build the object graph."""
        clock = SystemClock()
        state = open_state(settings.storage.path, clock.now)
        try:
            telemetry = Instruments(external_url=options.external_url)
            polling = build_polling(settings, state, telemetry, clock)
            schedule = Scheduler(clock)
            in_force = InForce(polling, schedule, open_files)
            reloader = Reloader(source, in_force, telemetry.reloaded, clock, options.reload_interval)
            health = ProcessHealth(polling, state, schedule, lambda: reloader.problem)
            telemetry.watch_process(state_writable=lambda: state.problem is None, dropped_log_lines=logs.dropped)
            app = build_app(polling, health, schedule, telemetry, reloader)
            connections = max_connections(open_files, len(settings.merchants), settings.poll.concurrency)
            server = make_server(app, options.listen, connections)
        except BaseException:
            state.close()
            raise
        return cls(clock, state, polling, schedule, health, telemetry, reloader, server, in_force)

    @property
    def url(self) -> str:
        """The URL of the status page."""
        return f"http://{self.server.address}/"

    def start(self) -> None:
        """Serve, and start the rounds."""
        self.telemetry.reloaded(ok=True, at=self.clock.now())
        self.server.start()
        self.schedule.start(self.health.beat, self.polling.show_counted)
        self.in_force.begin()
        settings = self.polling.settings
        log.info(
            "started",
            open=self.url,
            version=__version__,
            merchants=len(settings.merchants),
            streams=sum(len(merchant.streams()) for merchant in settings.merchants),
            state=str(settings.storage.path),
        )
        self.in_force.warn(settings.merchants)

    def stop(self) -> bool:
        """Stop serving and polling, and close the state file; False if a round did not end in time."""
        deadline = self.clock.monotonic() + GRACE
        reloads_ended = self.reloader.stop(GRACE)
        self.clock.stop()
        for poller in self.polling.pollers.values():
            poller.stop()
        self.schedule.stop()
        self.server.stop(timeout=2.0)
        if not self.polling.ended(deadline) or not reloads_ended:
            return False
        self.polling.close()
        self.state.close()
        return True
