"""The daemon: one process that polls, counts and serves until a signal."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import structlog

from exporter import __version__, garbage, logs
from exporter.app import build_app
from exporter.assembly import Polling
from exporter.clock import SystemClock
from exporter.config.settings import Settings
from exporter.httpd.descriptors import max_connections, raise_limit
from exporter.httpd.server import Server
from exporter.in_force import InForce
from exporter.polling.scheduler import Scheduler
from exporter.polling.start_log import StartLog
from exporter.process_health import ProcessHealth
from exporter.reload import Reloader, Source
from exporter.serving.instruments import Instruments
from exporter.serving.routes import make_server
from exporter.signals import STOP_SIGNALS, Signals
from exporter.storage.state import State, open_state
from exporter.web import WebConfigWatch, WebFlags

log = structlog.get_logger("daemon")

# Seconds that running rounds get to end. SIGTERM ends the process within 10 s, even if a request hangs.
GRACE = 5.0

# Seconds after which the process ends even if closing the state file hangs, on a disk for example.
LONGEST_END = 8.5

# Seconds. A state file that is damaged twice within this time is on a failing disk.
DAMAGED_AGAIN = 3600.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the configuration comes from, to read it again.

    Attributes:
        source: The configuration file.
        interval: Seconds between two looks whether a file of it has changed; 0 for none.
    """

    source: Source
    interval: float = 0.0


def caught_signals() -> Signals:
    """The signals that `run` waits for, as a context that must begin before the first thread."""
    return Signals((*STOP_SIGNALS, signal.SIGHUP))


def run(
    settings: Settings,
    origin: Origin,
    web: WebFlags,
    signals: Signals,
    started: Callable[[str], None] = lambda _url: None,
) -> int:
    """Poll, count and serve until SIGTERM or SIGINT.

    Args:
        settings: The configuration, without the media of its media files.
        origin: Where it comes from.
        web: How it is reached.
        signals: From `caught_signals`.
        started: Called with the exporter's URL each time it has started: once more after damage of the state file.

    Returns:
        The exit code.

    Raises:
        StateError: The state file cannot be used.
        InputError: Cannot listen on an address.
        ConfigError: The web configuration is not valid.
    """
    garbage.search_on_request()
    web_config = WebConfigWatch(web)
    open_files = raise_limit()
    ended_at = float("-inf")
    while isinstance(outcome := _run(settings, origin, web_config, signals, open_files, started), Settings):
        # As it was reloaded meanwhile.
        settings = outcome
        before, ended_at = ended_at, time.monotonic()
        if ended_at - before < DAMAGED_AGAIN:
            log.error("the state file is damaged again; check the disk")
            return 1
    return outcome


def _run(
    settings: Settings,
    origin: Origin,
    web_config: WebConfigWatch,
    signals: Signals,
    open_files: int,
    started: Callable[[str], None],
) -> int | Settings:
    """Poll, count and serve until a signal, or until the state file turns out to be damaged.

    Returns:
        The exit code; or the configuration in force, to open the state file again, which recovers what is readable.
    """
    with signals.ending_at_once(lambda: log.info("stopped during startup; nothing is lost")):
        process = _Process.build(settings, origin, web_config, open_files)
    process.start()
    started(process.server.url)
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
            return process.reloader.settings
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
        process.start_log.look()
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
        in_force: The configuration in force.
        reloader: Reloads it.
        server: The web server.
        web_config: Keeps the web configuration up to date.
        start_log: Logs the steps of the start.
    """

    clock: SystemClock
    state: State
    polling: Polling
    schedule: Scheduler
    health: ProcessHealth
    telemetry: Instruments
    in_force: InForce
    reloader: Reloader
    server: Server
    web_config: WebConfigWatch
    start_log: StartLog

    @classmethod
    def build(cls, settings: Settings, origin: Origin, web_config: WebConfigWatch, open_files: int) -> Self:
        """Open the state file and the ports, and build the object graph."""
        clock = SystemClock()
        state = open_state(settings.storage.path, clock.now)
        try:
            web = web_config.flags
            telemetry = Instruments(external_url=web.external_url)
            reading = origin.source.media(settings)
            polling = Polling(reading.settings, state, telemetry, clock)
            schedule = Scheduler(clock)
            in_force = InForce(polling, schedule, web_config, open_files)
            reloader = Reloader(origin.source, in_force, telemetry, clock, settings, reading, origin.interval)
            health = ProcessHealth(polling, state, schedule, reloader.problems)
            telemetry.watch_process(state_writable=lambda: state.problem is None, dropped_log_lines=logs.dropped)
            app = build_app(polling, health, schedule, telemetry, reloader, web.telemetry_path)
            connections = max_connections(open_files, len(settings.merchants), settings.poll.concurrency)
            server = make_server(app, web.listen, connections, web=web_config.web, telemetry_path=web.telemetry_path)
        except BaseException:
            state.close()
            raise
        start_log = StartLog(health.snapshot, polling.clock, server.url, settings.poll.settle + settings.poll.max_lag)
        return cls(
            clock, state, polling, schedule, health, telemetry, in_force, reloader, server, web_config, start_log
        )

    def start(self) -> None:
        """Serve, and start the rounds."""
        self.telemetry.reloaded(ok=True, at=self.clock.now())
        self.server.start()
        self.web_config.start(self.server.configure)
        self.schedule.start(self.health.beat, self.polling.show_counted, hourly=garbage.search)
        self.in_force.begin()
        settings = self.polling.settings
        log.info(
            "started",
            open=self.server.url,
            version=__version__,
            merchants=len(settings.merchants),
            streams=sum(len(merchant.streams()) for merchant in settings.merchants),
            state=str(settings.storage.path),
        )
        self.in_force.warn(settings.merchants)

    def stop(self) -> bool:
        """Stop serving and polling, and close the state file; False if a round did not end in time."""
        deadline = self.clock.monotonic() + GRACE
        self.clock.stop()
        for poller in self.polling.pollers.values():
            poller.stop()
        self.schedule.stop()
        self.web_config.stop()
        self.server.stop(timeout=2.0)
        reloads_ended = self.reloader.stop(deadline - self.clock.monotonic())
        if not self.polling.ended(deadline) or not reloads_ended:
            return False
        self.polling.close()
        self.state.close()
        return True
