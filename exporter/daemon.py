"""The parts put together: one process that polls, counts and serves."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import metadata
from types import MappingProxyType

import requests
import structlog

from exporter import __version__, logs
from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog
from exporter.api.client import Client
from exporter.api.request_log import Exchange, RequestLog
from exporter.clock import ApiClock, Clock, SystemClock
from exporter.config.load import dump
from exporter.config.settings import Settings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.errors import StateWriteFailed
from exporter.httpd.address import Address
from exporter.httpd.descriptors import needed, peers_for, raise_limit
from exporter.httpd.server import Handler
from exporter.model import MINUTE
from exporter.planning.index import can_hold
from exporter.polling.incidents import Incidents
from exporter.polling.poller import MerchantPoller
from exporter.polling.scheduler import Scheduler
from exporter.serving import page, status
from exporter.serving.families import SnapshotCollector, build_registry
from exporter.serving.instruments import Instruments
from exporter.serving.routes import create_app, make_server
from exporter.signals import STOP_SIGNALS, Signals
from exporter.storage.state import State, open_state
from exporter.views import HourView, LinkView, MerchantView, ProblemView, Snapshot, Subject

log = structlog.get_logger("daemon")

# SIGTERM ends the process within 10 s, whatever hangs: rounds get this long to end by themselves.
GRACE = 5.0

# And all that is left to do so long; a disk can hang, too.
LONGEST_END = 8.5

# A state file that is damaged again so soon (seconds) is on a disk that fails.
DAMAGED_AGAIN = 3600.0


@dataclass(frozen=True, slots=True)
class Polling:
    """What polls and counts, without what schedules and serves it.

    Attributes:
        ledger: What is counted.
        catalogs: What is known of the media, by merchant.
        watches: Who looks for drops, by merchant.
        pollers: Who asks, by merchant.
        clients: Who speaks with the API, by merchant.
        requests: The newest requests.
        clock: The time by the API's clock.
    """

    ledger: Ledger
    catalogs: Mapping[str, Catalog]
    watches: Mapping[str, DropMonitor]
    pollers: Mapping[str, MerchantPoller]
    clients: Mapping[str, Client]
    requests: RequestLog
    clock: ApiClock

    def snapshot(self) -> Snapshot:
        """What is counted, with what is known of the media and of drops."""
        now = self.clock.now()
        return Snapshot(
            MappingProxyType(
                {each.merchant_id: self._whole(each, now) for each in self.ledger.snapshot.merchants.values()}
            ),
            clock_offset=self.clock.offset,
        )

    def _whole(self, merchant: MerchantView, now: float) -> MerchantView:
        watch, link = self.watches[merchant.merchant_id], self.pollers[merchant.merchant_id].link
        drops = watch.drops(now)
        media = {
            media_id: replace(
                view,
                drop=drops.get(media_id),
                thresholds=watch.thresholds[media_id],
                failing_streams=link.failing.get(media_id, 0),
                gone=media_id in link.gone,
            )
            for media_id, view in self.catalogs[merchant.merchant_id].views(now).items()
        }
        return replace(merchant, media=MappingProxyType(media), drop=drops.get(""))

    def hours(self) -> Mapping[str, Mapping[str, HourView]]:
        """The newest hour of plays, by merchant and media, "" for the whole merchant."""
        return {merchant_id: watch.hours() for merchant_id, watch in self.watches.items()}

    def links(self) -> Mapping[str, LinkView]:
        """How the connections do."""
        return {merchant_id: poller.link for merchant_id, poller in self.pollers.items()}

    def show_counted(self) -> None:
        """Let the counters whose 0 has been on display for a minute show what they have counted."""
        # While the file cannot be written, what is counted stays on display as it is.
        with contextlib.suppress(StateWriteFailed):
            self.ledger.show_counted(self.clock.now())

    def close(self) -> None:
        """Close the connections, and write what the drop detector has not written yet."""
        for client in self.clients.values():
            client.close()
        for watch in self.watches.values():
            # What cannot be written now is made from the next answers.
            with contextlib.suppress(StateWriteFailed):
                watch.save(self.clock.now())


def build_polling(
    settings: Settings,
    state: State,
    telemetry: Instruments,
    clock: Clock,
    adapter: Callable[[], requests.adapters.BaseAdapter] | None = None,
) -> Polling:
    """Put together what polls and counts, and take up what the state file holds.

    Args:
        settings: The configuration.
        state: The state file.
        telemetry: Told of requests and revisions.
        clock: The time.
        adapter: Makes the transport of each client, where it is not to be the usual one.
    """
    api_clock = ApiClock(clock)
    ledger = Ledger(state, settings, telemetry.observe_revision)
    ledger.sync(settings.merchants, api_clock.now())
    api_clock.on_correction = ledger.correct_start
    telemetry.expect(merchant.id for merchant in settings.merchants)
    telemetry.watch_clock(lambda: api_clock.offset)
    catalogs, watches, pollers, clients = {}, {}, {}, {}
    request_log = RequestLog()
    for merchant in settings.merchants:
        limiter = RequestBudget(
            state, merchant.id, merchant.requests_per_minute, clock.now, clock.monotonic, settings.api.timeout
        )
        clients[merchant.id] = client = Client(
            settings.api,
            merchant,
            limiter,
            on_date=api_clock.answered,
            clock=api_clock.now,
            monotonic=api_clock.monotonic,
            adapter=adapter() if adapter else None,
            observe=_observer(telemetry, request_log),
        )
        catalogs[merchant.id] = catalog = Catalog(state, merchant)
        watches[merchant.id] = watch = DropMonitor(state, settings, merchant, catalog)
        pollers[merchant.id] = MerchantPoller(
            merchant, settings.poll, ledger, catalog, watch, limiter, client, api_clock, Incidents()
        )
    return Polling(ledger, catalogs, watches, pollers, clients, request_log, api_clock)


def _observer(telemetry: Instruments, request_log: RequestLog) -> Callable[[Exchange], None]:
    def observe(exchange: Exchange) -> None:
        telemetry.observe_request(exchange.merchant_id, exchange.endpoint, exchange.code, exchange.seconds)
        request_log.note(exchange)

    return observe


def run(settings: Settings, listen: Address, signals: Signals) -> int:
    """Poll, count and serve until SIGTERM or SIGINT.

    Args:
        settings: The configuration.
        listen: Where to serve.
        signals: From `caught_signals`.

    Returns:
        The exit code.

    Raises:
        StateError: The state file cannot be used.
        InputError: The address cannot be listened on.
    """
    open_files = raise_limit()
    ended_at = float("-inf")
    while (code := _run(settings, listen, signals, open_files)) is None:
        before, ended_at = ended_at, time.monotonic()
        if ended_at - before < DAMAGED_AGAIN:
            log.error("the state file is damaged again; check the disk")
            return 1
    return code


def _run(settings: Settings, listen: Address, signals: Signals, open_files: int) -> int | None:
    """Poll, count and serve until a signal, or until the state file is found to be damaged.

    Returns:
        The exit code; None where the file is to be opened again, which keeps what can be read of it.
    """
    with signals.ending_at_once(_end_while_starting):
        clock = SystemClock()
        state = open_state(settings.storage.path, clock.now)
        try:
            telemetry = Instruments()
            polling = build_polling(settings, state, telemetry, clock)
            rounds = {merchant_id: poller.round for merchant_id, poller in polling.pollers.items()}
            schedule = Scheduler(clock, rounds)
            health = ProcessHealth(polling, state, schedule)
            telemetry.watch_process(state_writable=lambda: state.problem is None, dropped_log_lines=logs.dropped)
            app = _app(settings, polling, health, schedule, telemetry)
            server = make_server(app, listen, peers_for(open_files, len(settings.merchants), settings.poll.concurrency))
        except BaseException:
            state.close()
            raise
    telemetry.reloaded(ok=True, at=clock.now())
    server.start()
    schedule.start(math.ceil(settings.poll.settle) % 60, health.beat, polling.show_counted)
    log.info(
        "started",
        open=f"http://{server.address}/",
        version=__version__,
        merchants=len(polling.pollers),
        streams=sum(len(merchant.streams) for merchant in polling.ledger.snapshot.merchants.values()),
        state=str(settings.storage.path),
    )
    _warn_of_waits(settings)
    _warn_of_open_files(settings, open_files)
    stopped_by = _wait(signals, schedule, state)
    if stopped_by is None:
        problem = state.problem
        log.warning("restarting to salvage the state file", problem=problem.message if problem else "")
    else:
        log.info("stopping", signal=stopped_by.name)
        signals.end_within(LONGEST_END, _end_in_a_hurry)
    clock.stop()
    for poller in polling.pollers.values():
        poller.stop()
    schedule.stop()
    server.stop(timeout=2.0)
    deadline = clock.monotonic() + GRACE
    ended = [poller.ended(deadline - clock.monotonic()) for poller in polling.pollers.values()]
    if all(ended):
        polling.close()
        state.close()
        if stopped_by is None:
            return None
        log.info("stopped")
        return 0
    # Python would wait for its threads, and they for a peer that does not answer. What is counted is committed.
    log.warning("stopped while a request or the disk hung; nothing is lost")
    logs.flush()
    os._exit(0 if stopped_by else 1)


def _wait(signals: Signals, schedule: Scheduler, state: State) -> signal.Signals | None:
    """Wait for the signal to stop, or until the state file is found to be damaged."""
    while not state.damaged:
        received = signals.wait(1.0)
        if received in STOP_SIGNALS:
            return received
        if received == signal.SIGHUP:
            log.warning("SIGHUP does not reload the configuration: restart the exporter to apply changes")
        schedule.watch_clock()
    return None


def _end_while_starting() -> None:
    log.info("stopped while starting; nothing is lost")
    logs.flush()


def _end_in_a_hurry() -> None:
    log.warning("stopped while the state file could not be closed; nothing is lost")
    logs.flush()


class ProcessHealth:
    """What is wrong with the process itself, and the line in the log when that begins and ends."""

    def __init__(self, polling: Polling, state: State, schedule: Scheduler) -> None:
        self._polling = polling
        self._state = state
        self._schedule = schedule
        self._faults = Incidents()

    def problems(self) -> tuple[ProblemView, ...]:
        """What is wrong now, the worst first."""
        return tuple(self._find())

    def snapshot(self) -> Snapshot:
        """What is counted, with what is wrong with the process."""
        return replace(self._polling.snapshot(), problems=self.problems())

    def beat(self) -> None:
        """Do what is done every few seconds."""
        self._state.probe()
        now = self._polling.clock.monotonic()
        problems = self.problems()
        events = [self._faults.report(problem.subject, problem.message, now) for problem in problems]
        events += self._faults.settle(now, {(problem.subject, "") for problem in problems})
        for event in filter(None, events):
            (log.info if event.kind == "end" else log.warning)(event.line)

    def links(self) -> Mapping[str, LinkView]:
        """How the connections do: none lets a request leave while the state file cannot be written."""
        links = self._polling.links()
        if self._state.problem is None:
            return links
        return {merchant_id: replace(link, up=False) for merchant_id, link in links.items()}

    def _find(self) -> Iterator[ProblemView]:
        writing = self._state.problem
        if writing is not None:
            yield ProblemView(Subject.STATE_FILE, writing.message, writing.since, bad=True)
        stopped = self._schedule.problem()
        if stopped is not None:
            yield ProblemView(Subject.POLLING, stopped, bad=True)
        offset = self._polling.clock.offset
        if offset:
            yield ProblemView(Subject.CLOCK, status.clock_problem(offset))
        unread = logs.problem()
        if unread is not None:
            yield ProblemView(Subject.LOG, unread)


def _app(
    settings: Settings, polling: Polling, health: ProcessHealth, schedule: Scheduler, telemetry: Instruments
) -> Handler:
    collector = SnapshotCollector(health.snapshot, health.links, settings.poll, polling.clock.now)

    def shown(render: Callable[[status.Status], str]) -> Callable[[str], str | None]:
        def of_merchant(merchant_id: str) -> str | None:
            whole = status.build(
                health.snapshot(),
                health.links(),
                polling.hours(),
                polling.requests.view(),
                polling.clock.now(),
                __version__,
            )
            part = status.only(whole, merchant_id)
            return None if part is None else render(part)

        return of_merchant

    def ready() -> str | None:
        waiting = [merchant_id for merchant_id, link in polling.links().items() if link.up is None]
        return f"waiting for the first answer for {', '.join(waiting)}" if waiting else None

    return create_app(
        build_registry(telemetry, collector),
        healthy=schedule.problem,
        ready=ready,
        page=shown(page.page),
        status_json=shown(status.as_json),
        config_text=lambda: dump(settings),
        # The README of the release that runs.
        docs=lambda: metadata("smartstream-exporter")["Description"],
    )


def _warn_of_waits(settings: Settings) -> None:
    longest = int(settings.poll.max_staleness // MINUTE)
    for merchant in settings.merchants:
        streams = len(merchant.streams())
        if not can_hold(streams, merchant.requests_per_minute, longest):
            log.warning(
                "too many streams for max_staleness: quiet ones will wait longer; "
                "`smartstream-exporter plan` tells how long, and what to change",
                merchant=merchant.id,
                streams=streams,
                requests_per_minute=merchant.requests_per_minute,
            )


def _warn_of_open_files(settings: Settings, limit: int) -> None:
    wanted = needed(len(settings.merchants), settings.poll.concurrency)
    if limit < wanted:
        log.warning(
            "the limit of open files is too low: requests will fail; "
            "raise it (ulimit -n, LimitNOFILE), lower poll.concurrency, or spread the merchants with --shard.count",
            limit=limit,
            needed=wanted,
            merchants=len(settings.merchants),
            concurrency=settings.poll.concurrency,
        )


def caught_signals() -> Signals:
    """What `run` waits for, as a context: it begins before the first thread starts."""
    return Signals((*STOP_SIGNALS, signal.SIGHUP))
