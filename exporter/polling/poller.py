"""The polling: rounds of requests, one after each minute's settling, for each merchant apart from the others."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from exporter.api.zone_check import ZoneFinding
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    RateLimited,
    Removed,
    SignInFailed,
    StateWriteFailed,
    Unauthorized,
    Unhandled,
)
from exporter.model import MINUTE, Stream
from exporter.planning.index import lower_bound
from exporter.polling.backoff import Backoff, Failure, Task, retry_after
from exporter.polling.incidents import IncidentEvent, Incidents
from exporter.polling.parts import MerchantParts
from exporter.polling.queue import RequestQueue
from exporter.polling.round import Plan, Round
from exporter.polling.sources import UNUSABLE, Sources
from exporter.polling.staleness import Staleness
from exporter.times import format_instant
from exporter.views import LinkView

log = structlog.get_logger("poll")

# The bound on the staleness changes slowly, and takes a while to compute.
BOUND_EVERY = 600.0

# The kind of incident of an unexpected error outside a request.
DEFECT = "defect"


class MerchantPoller:
    """One merchant's polling. One round runs at a time; `link` can be read from any thread."""

    def __init__(self, parts: MerchantParts, after: "MerchantPoller | None" = None) -> None:
        """Request nothing yet.

        Args:
            parts: What it uses.
            after: A stopped poller of the same merchant: no round begins before its last one has ended.
        """
        self.merchant_id = parts.settings.id
        self._parts = parts
        self._monitor = parts.monitor
        self._budget = parts.budget
        self._clock = parts.clock
        self._incidents = Incidents()
        self._staleness = Staleness(
            parts.settings, parts.poll, parts.ledger, parts.monitor.dispersion, parts.monitor.expected
        )
        self._sources = Sources(parts, self._staleness)
        self._stopped = threading.Event()
        self._running: threading.Lock = threading.Lock() if after is None else after._running  # noqa: SLF001
        # What follows is shared by the threads of a round, and each round's own `Round` is, too.
        self._mutex = threading.Lock()
        # Held by the thread that waits for the budget.
        self._waiting = threading.Lock()
        # Notified when the threads of a round may find a task again.
        self._changed = threading.Condition(self._mutex)
        self._backoff = Backoff(self._staleness.pace_maker)
        self._queue = RequestQueue(parts, self._sources, self._staleness, self._backoff)
        # The round that runs.
        self._round: Round | None = None
        # The client, and how many refused tokens it had replaced, at the newest answer.
        self._renewals = (parts.client, parts.client.renewals)
        self._bound_due = 0.0
        self._link = LinkView(self.merchant_id, budget=self._budget.allowed, streams=self._staleness.streams)

    @property
    def link(self) -> LinkView:
        """The state of the connection to the API."""
        return replace(
            self._link,
            budget=self._budget.allowed,
            token_expiry=self._parts.client.token_expiry,
            unusable=self._sources.streams.unusable,
        )

    @property
    def zone(self) -> ZoneFinding:
        """What is known of the API's time zone."""
        return self._sources.zone.finding

    @property
    def learning(self) -> float | None:
        """Seconds until all media can be judged for drops, 0 if they can; None if that is not known."""
        remaining = self._sources.warmup.remaining()
        return remaining if self._link.up or remaining == 0 else None

    @contextlib.contextmanager
    def reconfiguring(self) -> Iterator[None]:
        """While another configuration is put in the place of that of the parts, no request is chosen and no answer is
        noted. Requests under way go on: what they bring is entered, or is void where the configuration does not have
        it any more. Then the round that runs chooses again.
        """
        with self._mutex:
            yield
            self._staleness.configure(self._parts.settings, self._parts.poll)
            self._sources.forget_removed()
            self._incidents.forget(self._backoff.forget_removed(self._staleness))
            if self._renewals[0] is not self._parts.client:
                self._renewed()
            if self._round is not None:
                self._round.plan = Plan()
            self._bound_due = 0.0
            self._link = replace(self._link, streams=self._staleness.streams)
            self._show_failing()
            self._changed.notify_all()

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """While the merchant is taken out of the configuration, no request is chosen and no answer is noted.

        Then the round that runs ends, and no other begins.
        """
        with self._mutex:
            yield
            self._stopped.set()
            self._changed.notify_all()

    def stop(self) -> None:
        """End the round that runs before its next request, and begin no other."""
        self._stopped.set()
        with self._mutex:
            self._changed.notify_all()

    def ended(self, timeout: float) -> bool:
        """Wait until no round runs; whether that came true within so many seconds."""
        ended = self._running.acquire(timeout=max(0.0, timeout))
        if ended:
            self._running.release()
        return ended

    def round(self) -> None:
        """Request what is due, until nothing is, the budget of this minute is spent, or the API is down."""
        with self._running:
            if self._stopped.is_set():
                return
            with self._mutex:
                current = self._round = self._queue.begin()
            try:
                self._ask_all(current)
            except Exception:
                # Show what is known even after a defect of the planning. The scheduler logs it.
                self._finish(current)
                raise
            self._finish(current)
            with self._mutex:
                self._round = None
                self._link = replace(self._link, round_timestamp=self._clock.now())

    def _ask_all(self, current: Round) -> None:
        concurrency = self._parts.poll.concurrency
        if concurrency == 1:
            self._work(current)
        else:
            with ThreadPoolExecutor(concurrency) as pool:
                workers = [pool.submit(self._work, current) for _ in range(concurrency)]
            for worker in workers:
                worker.result()
        with self._mutex:
            if current.evidence.suspects and current.evidence.witness is not None and not current.evidence.down:
                self._note_api_works(current)
            elif current.evidence.suspects:
                self._note_outage(current)

    def _work(self, current: Round) -> None:
        while (task := self._take(current)) is not None:
            sent = True
            try:
                sent = self._attempt(task, current)
            except Exception as error:  # noqa: BLE001 - an unexpected error is the incident of this task alone
                with self._mutex:
                    self._note_failure(current, task, Unhandled.by(error))
            finally:
                with self._mutex:
                    self._queue.give_back(task, current, sent=sent)
                    self._changed.notify_all()

    def _take(self, current: Round) -> Task | None:
        """The next task; None if the round ends."""
        with self._mutex:
            # Not a sleep of the clock: what ends this wait is another thread.
            self._changed.wait_for(lambda: self._stopped.is_set() or not self._queue.blocked(current))
            return None if self._stopped.is_set() else self._queue.take(current)

    def _attempt(self, task: Task, current: Round) -> bool:
        """Send a request and note its result; False if it had to wait for the budget instead."""
        try:
            done = self._sources.of(task).ask(task)
        except BudgetSpent as spent:
            until = self._clock.monotonic() + spent.wait
            # One thread at a time: when it has waited, so have the others.
            with self._waiting:
                self._wait(until, current)
            return False
        except Removed:
            # Nobody wants to know any more.
            pass
        except StateWriteFailed as error:
            with self._mutex:
                # Without a note of each request the limit could be broken after a restart, so none can leave. The
                # process reports it once, for all merchants.
                current.ended = current.unwritable = True
                self._show_down(str(error), blocked=True)
        except ApiError as error:
            with self._mutex:
                self._note_failure(current, task, error)
        else:
            with self._mutex:
                self._queue.answered(task)
                if done:
                    self._note_answer(current, task)
                if problem := self._sources.of(task).problem(task):
                    self._report(Failure(UNUSABLE, "", problem))
        return True

    def _wait(self, until: float, current: Round) -> None:
        seconds = until - self._clock.monotonic()
        if seconds <= 0:
            return
        with self._mutex:
            current.waited = True
            current.ended |= until > self._queue.deadline(current)
        if not current.ended:
            # A round can wait for most of a minute. What has come so far need not.
            with self._mutex:
                self._judge()
            self._clock.sleep(seconds)

    def _note_answer(self, current: Round, task: Task) -> None:
        self._link = replace(self._link, last_success=self._clock.now(), refused=False, blocked=False)
        if isinstance(task, Stream):
            # During a Retry-After, the late answer of a request that was under way shows nothing.
            held = self._budget.held
            self._link = replace(self._link, up=not held, rate_limited=self._link.rate_limited and held)
            client = self._parts.client
            if self._renewals != (client, client.renewals):
                self._renewed()
                current.evidence.drop(Unauthorized)
            current.evidence.answered(task)
        # An answer of the catalog shows only that the catalog works.
        relevant = isinstance(task, Stream) or not current.evidence.streams_suspected
        if relevant and not current.evidence.down and task not in current.evidence.sent_before:
            self._note_api_works(current)
        self._backoff.answered(task)

    def _renewed(self) -> None:
        """Note that requests have another token than those that failed."""
        self._renewals = (self._parts.client, self._parts.client.renewals)
        self._backoff.token_renewed()

    def _note_failure(self, current: Round, task: Task, error: ApiError) -> None:
        current.failures[task] += 1
        self._link = replace(self._link, last_error=str(error), last_error_at=self._clock.now())
        if isinstance(error, SignInFailed):
            self._link = replace(self._link, refused=error.refused)
        if isinstance(error, RateLimited) or self._link.up is None:
            self._show_down()
        if isinstance(error, RateLimited):
            self._link = replace(self._link, rate_limited=True)
            self._report(self._backoff.rate_limited(error))
            self._sources.of(task).failed(task)
            return
        if isinstance(error, Unhandled):
            # The error is not the API's.
            self._note_own_failure(current, task, error)
            return
        suspicion = self._backoff.suspicion(task, error, answered=current.evidence.witness is not None)
        if not suspicion:
            current.failed_again += isinstance(task, Stream)
            self._note_own_failure(current, task, error)
            return
        if current.evidence.add(task, error, suspicion, current.under_way):
            self._note_outage(current)

    def _note_api_works(self, current: Round) -> None:
        """Note that the API works: the failed tasks fail alone."""
        for task, error in current.evidence.suspects:
            self._note_own_failure(current, task, error)
        current.evidence.clear()

    def _note_own_failure(self, current: Round, task: Task, error: ApiError) -> None:
        """Note that a task fails alone."""
        if (task if isinstance(task, Stream) else task.media_id) not in self._staleness:
            return
        source = self._sources.of(task)
        works = current.evidence.witness is not None
        if works and isinstance(error, BadRequest) and source.shorten(task):
            return
        failure = self._backoff.failed(task, error, self._clock.monotonic())
        self._report(failure, error)
        if not isinstance(task, Stream):
            current.failed_background += failure.suspicion
            self._queue.pause_background(retry_after(error) or 0.0)
            source.failed(task)

    def _note_outage(self, current: Round) -> None:
        """End the round: the API is down."""
        current.ended = current.evidence.down = True
        self._link = replace(self._link, rate_limited=False)
        self._show_down()
        suspects = current.evidence.clear()
        for failure in self._backoff.api_failed(suspects):
            self._report(failure)
        wait = max(retry_after(error) or 0.0 for _, error in suspects)
        if wait:
            # If this cannot be written, no request can leave in any case.
            with contextlib.suppress(StateWriteFailed):
                self._budget.hold(wait)

    def _show_down(self, error: str = "", *, blocked: bool = False) -> None:
        """Note that the API as a whole fails, or that no request can leave, and why where that is not noted yet."""
        self._link = replace(self._link, up=False, blocked=blocked)
        if error:
            self._link = replace(self._link, last_error=error, last_error_at=self._clock.now())

    # ---- the end of a round ----

    def _finish(self, current: Round) -> None:
        if self._stopped.is_set():
            # The merchant may not be in the configuration any more.
            return
        now = self._clock.now()
        with self._contained("log"):
            if not self._budget.held:
                # During a hold nothing is requested, so nothing shows that an incident is resolved.
                with self._mutex:
                    unresolved = self._backoff.unresolved | self._sources.streams.unresolved
                    events = self._incidents.settle(now, unresolved)
                for event in events:
                    self._log(event)
        with self._mutex:
            self._judge()
        with self._contained("state file"):
            if not current.unwritable:
                self._save()
        with self._contained("staleness"), self._mutex:
            self._measure()

    def _judge(self) -> None:
        """Let the drop monitor judge what has come."""
        with self._contained("drop detector"):
            for media_id, error in self._monitor.judge().items():
                self._defect(f"drop detector, {f'media {media_id}' if media_id else 'whole merchant'}", error)

    def _measure(self) -> None:
        """Update the staleness and the failing streams."""
        now = self._clock.now()
        moment = self._staleness.moment(now, self._clock.monotonic())
        weights = self._staleness.weights(moment)
        bound = self._link.staleness_bound_minutes
        if not 0 < self._bound_due - self._clock.monotonic() <= BOUND_EVERY:
            self._bound_due = self._clock.monotonic() + BOUND_EVERY
            limit, longest = self._parts.settings.requests_per_minute, self._parts.poll.max_staleness
            bound = lower_bound(list(weights.values()), limit, int(longest // MINUTE))
        self._link = replace(
            self._link,
            staleness_minutes=self._staleness.mean(weights, moment),
            staleness_bound_minutes=bound,
        )
        self._show_failing()

    def _show_failing(self) -> None:
        """Show which streams and lookups fail."""
        began = self._clock.now() - self._clock.monotonic()
        self._link = replace(
            self._link,
            failing=self._backoff.failing_streams,
            gone=self._backoff.gone,
            failing_since={media_id: began + since for media_id, since in self._backoff.failing_since.items()},
            failing_lookups=self._backoff.failing_lookups,
        )

    @contextlib.contextmanager
    def _contained(self, part: str) -> Iterator[None]:
        """Let an unexpected error end only this part of a round."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is reported
            self._defect(part, error)

    def _defect(self, part: str, error: Exception) -> None:
        """Report an unexpected error in a part of the exporter."""
        found = Unhandled.by(error)
        self._link = replace(self._link, last_error=f"{part}: {found}", last_error_at=self._clock.now())
        self._report(Failure(DEFECT, part, str(found)), found)

    def _save(self) -> None:
        try:
            self._monitor.save_now_and_then(self._clock.now())
        except StateWriteFailed as error:
            with self._mutex:
                self._report(Failure("state file", "", str(error)))

    def _report(self, failure: Failure, error: ApiError | None = None) -> None:
        event = self._incidents.report(failure.key, failure.message, self._clock.now(), name=failure.name)
        if event is not None and isinstance(error, Unhandled):
            # With the place where it was raised.
            log.error(event.message, merchant=self.merchant_id, exc_info=error.__cause__)
        elif event is not None:
            self._log(event)

    def _log(self, event: IncidentEvent) -> None:
        if event.kind == "begin":
            log.warning(event.line, merchant=self.merchant_id)
            return
        since = format_instant(event.since)
        write = log.info if event.kind == "end" else log.warning
        write(event.line, merchant=self.merchant_id, since=since, times=event.count)
