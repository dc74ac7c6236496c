"""The daemon: one process that polls, counts and serves until a signal."""

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import metadata
from typing import Self

import structlog

from exporter import __version__, logs
from exporter.assembly import Polling, build_polling
from exporter.clock import SystemClock
from exporter.config.load import dump
from exporter.config.settings import Settings
from exporter.httpd.address import Address
from exporter.httpd.descriptors import max_connections, needed, raise_limit
from exporter.httpd.messages import Handler
from exporter.httpd.server import Server
from exporter.model import MINUTE
from exporter.planning.index import can_hold
from exporter.polling.scheduler import Scheduler
from exporter.process_health import ProcessHealth
from exporter.serving import page, status
from exporter.serving.collector import SnapshotCollector, build_registry
from exporter.serving.instruments import Instruments
from exporter.serving.routes import create_app, make_server
from exporter.serving.schema import Status
from exporter.serving.status import Limits
from exporter.signals import STOP_SIGNALS, Signals
from exporter.storage.state import State, open_state

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


def run(
    settings: Settings,
    listen: Address,
    signals: Signals,
    external_url: str = "",
    started: Callable[[str], None] = lambda _url: None,
) -> int:
    """Poll, count and serve until SIGTERM or SIGINT.

    Args:
        settings: The configuration.
        listen: The address to serve on.
        signals: From `caught_signals`.
        external_url: The address at which people reach the pages, without a final slash; "" if unknown.
        started: Called with the exporter's URL each time it has started: once more after damage of the state file.

    Returns:
        The exit code.

    Raises:
        StateError: The state file cannot be used.
        InputError: Cannot listen on the address.
    """
    open_files = raise_limit()
    ended_at = float("-inf")
    while (code := _run(settings, listen, signals, open_files, external_url, started)) is None:
        before, ended_at = ended_at, time.monotonic()
        if ended_at - before < DAMAGED_AGAIN:
            log.error("the state file is damaged again; check the disk")
            return 1
    return code


def _run(
    settings: Settings,
    listen: Address,
    signals: Signals,
    open_files: int,
    external_url: str,
    started: Callable[[str], None],
) -> int | None:
    """Poll, count and serve until a signal, or until the state file turns out to be damaged.

    Returns:
        The exit code; None to open the state file again, which recovers what is readable.
    """
    with signals.ending_at_once(lambda: log.info("stopped during startup; nothing is lost")):
        process = _Process.build(settings, listen, open_files, external_url)
    process.start()
    started(process.url)
    _warn_of_waits(settings)
    _warn_of_open_files(settings, open_files)
    stopped_by = _wait(signals, process.schedule, process.state)
    if stopped_by is None:
        problem = process.state.problem
        log.warning("restarting to recover the state file", problem=problem.message if problem else "")
    else:
        log.info("stopping", signal=stopped_by.name)
        too_late = "stopped before the state file was closed; nothing is lost"
        signals.end_within(LONGEST_END, lambda: log.warning(too_late))
    if process.stop():
        if stopped_by is None:
            return None
        log.info("stopped")
        return 0
    # Python would wait for its threads, and they wait for a peer that does not answer. All counts are committed.
    log.warning("stopped while a request or the disk did not respond; nothing is lost")
    logs.flush()
    os._exit(0 if stopped_by else 1)


def _wait(signals: Signals, schedule: Scheduler, state: State) -> signal.Signals | None:
    """Wait for a signal to stop, or until the state file turns out to be damaged."""
    while not state.damaged:
        received = signals.wait(1.0)
        if received in STOP_SIGNALS:
            return received
        if received == signal.SIGHUP:
            log.warning("SIGHUP does not reload the configuration: restart the exporter to apply changes")
        schedule.watch_clock()
    return None


@dataclass(frozen=True, slots=True)
class _Process:
    """Everything that runs between a start and a stop.

    Attributes:
        settings: The configuration.
        clock: The clock; stopping it ends every sleep.
        state: The state file.
        polling: The parts that poll and count.
        schedule: The scheduler of the rounds.
        health: The problems of the process.
        telemetry: The metrics of the exporter itself.
        server: The web server.
    """

    settings: Settings
    clock: SystemClock
    state: State
    polling: Polling
    schedule: Scheduler
    health: ProcessHealth
    telemetry: Instruments
    server: Server

    @classmethod
    def build(cls, settings: Settings, listen: Address, open_files: int, external_url: str) -> Self:
        """Open the state file and the port, and build the object graph."""
        clock = SystemClock()
        state = open_state(settings.storage.path, clock.now)
        try:
            telemetry = Instruments(external_url=external_url)
            polling = build_polling(settings, state, telemetry, clock)
            rounds = {merchant_id: poller.round for merchant_id, poller in polling.pollers.items()}
            schedule = Scheduler(clock, rounds)
            health = ProcessHealth(polling, state, schedule)
            telemetry.watch_process(state_writable=lambda: state.problem is None, dropped_log_lines=logs.dropped)
            app = _app(settings, polling, health, schedule, telemetry)
            connections = max_connections(open_files, len(settings.merchants), settings.poll.concurrency)
            server = make_server(app, listen, connections)
        except BaseException:
            state.close()
            raise
        return cls(settings, clock, state, polling, schedule, health, telemetry, server)

    @property
    def url(self) -> str:
        """The URL of the status page."""
        return f"http://{self.server.address}/"

    def start(self) -> None:
        """Serve, and start the rounds."""
        self.telemetry.reloaded(ok=True, at=self.clock.now())
        self.server.start()
        second = math.ceil(self.settings.poll.settle) % 60
        self.schedule.start(second, self.health.beat, self.polling.show_counted)
        log.info(
            "started",
            open=self.url,
            version=__version__,
            merchants=len(self.polling.pollers),
            streams=sum(len(merchant.streams) for merchant in self.polling.ledger.snapshot.merchants.values()),
            state=str(self.settings.storage.path),
        )

    def stop(self) -> bool:
        """Stop serving and polling, and close the state file; False if a round did not end in time."""
        self.clock.stop()
        for poller in self.polling.pollers.values():
            poller.stop()
        self.schedule.stop()
        self.server.stop(timeout=2.0)
        deadline = self.clock.monotonic() + GRACE
        ended = [poller.ended(deadline - self.clock.monotonic()) for poller in self.polling.pollers.values()]
        if not all(ended):
            return False
        self.polling.close()
        self.state.close()
        return True


def _app(
    settings: Settings, polling: Polling, health: ProcessHealth, schedule: Scheduler, telemetry: Instruments
) -> Handler:
    collector = SnapshotCollector(health.snapshot, settings.poll.max_staleness, polling.clock.now)

    limits = Limits(str(settings.api.timezone), settings.poll.max_staleness, settings.poll.max_lag)

    def built(merchant_id: str) -> Status | None:
        part = status.only(health.snapshot(), merchant_id)
        if part is None:
            return None
        hours, days = polling.hours(part.merchants), polling.days(part.merchants)
        return status.build(part, hours, days, polling.requests.view(), polling.clock.now(), __version__, limits)

    def rendered(render: Callable[[Status], str]) -> Callable[[str], str | None]:
        def of_merchant(merchant_id: str) -> str | None:
            found = built(merchant_id)
            return None if found is None else render(found)

        return of_merchant

    def media_page(merchant_id: str, media_id: str) -> str | None:
        found = built(merchant_id) if merchant_id else None
        return None if found is None else page.media_page(found, media_id)

    def ready() -> str | None:
        waiting = [merchant_id for merchant_id, poller in polling.pollers.items() if poller.link.up is None]
        return f"waiting for the first API response for {', '.join(waiting)}" if waiting else None

    return create_app(
        build_registry(telemetry, collector),
        healthy=schedule.problem,
        ready=ready,
        page=rendered(page.page),
        media_page=media_page,
        status_json=rendered(status.as_json),
        config_text=lambda: dump(settings),
        # The README of the installed release.
        docs=lambda: metadata("smartstream-exporter")["Description"],
    )


def _warn_of_waits(settings: Settings) -> None:
    longest = int(settings.poll.max_staleness // MINUTE)
    for merchant in settings.merchants:
        streams = len(merchant.streams())
        if not can_hold(streams, merchant.requests_per_minute, longest):
            log.warning(
                "too many streams for max_staleness: quiet streams will wait longer; "
                "run `smartstream-exporter plan` for an estimate and advice",
                merchant=merchant.id,
                streams=streams,
                requests_per_minute=merchant.requests_per_minute,
            )


def _warn_of_open_files(settings: Settings, limit: int) -> None:
    wanted = needed(len(settings.merchants), settings.poll.concurrency)
    if limit < wanted:
        log.warning(
            "the open file limit is too low: requests will fail; "
            "raise it (ulimit -n, LimitNOFILE), lower poll.concurrency, or shard the merchants with --shard.count",
            limit=limit,
            needed=wanted,
            merchants=len(settings.merchants),
            concurrency=settings.poll.concurrency,
        )
