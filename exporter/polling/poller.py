"""The polling: rounds of requests, one after each minute's settling, for each merchant apart from the others."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog, Lookup
from exporter.api.client import Client
from exporter.clock import Clock
from exporter.config.settings import MerchantSettings, PollSettings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import WarmupRequest
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    RateLimited,
    SignInFailed,
    StateWriteFailed,
    Unauthorized,
    Unhandled,
)
from exporter.model import MINUTE, Stream
from exporter.planning.index import lower_bound
from exporter.polling.backoff import Backoff, Failure, Task, retry_after
from exporter.polling.incidents import IncidentEvent, Incidents
from exporter.polling.queue import RequestQueue, Round
from exporter.polling.requests import UNUSABLE, Requests
from exporter.polling.staleness import Staleness
from exporter.views import LinkView

log = structlog.get_logger("poll")

# The bound on the staleness changes slowly, and takes a while to compute.
BOUND_EVERY = 600.0

# The key of what fails in a way that nobody foresaw, and that is no request.
DEFECT = "defect"


class MerchantPoller:
    """One merchant's polling. One round runs at a time; `link` can be read from any thread."""

    def __init__(
        self,
        merchant: MerchantSettings,
        poll: PollSettings,
        ledger: Ledger,
        catalog: Catalog,
        watch: DropMonitor,
        limiter: RequestBudget,
        client: Client,
        clock: Clock,
        faults: Incidents,
    ) -> None:
        self.merchant_id = merchant.id
        self._limit = merchant.requests_per_minute
        self._poll = poll
        self._catalog = catalog
        self._watch = watch
        self._limiter = limiter
        self._client = client
        self._clock = clock
        self._faults = faults
        self._staleness = Staleness(merchant, poll, ledger, watch.dispersion)
        self._asking = Requests(client, ledger, self._staleness, catalog, watch, clock)
        self._stopped = threading.Event()
        self._running = threading.Lock()
        # What follows is shared by the threads of a round, and each round's own `Round` is, too.
        self._mutex = threading.Lock()
        # Told when the threads of a round may have something to take again.
        self._given_back = threading.Condition(self._mutex)
        self._rests = Backoff(self._staleness.pace_maker)
        self._turns = RequestQueue(self._staleness, self._rests, catalog, watch, limiter, clock, poll.max_staleness)
        # How many refused tokens had been replaced at the newest answer.
        self._renewals = client.renewals
        self._bound_due = 0.0
        self._link = LinkView(merchant.id, budget=limiter.allowed, streams=self._staleness.streams)

    @property
    def link(self) -> LinkView:
        """How the connection to the API does."""
        return replace(
            self._link,
            budget=self._limiter.allowed,
            token_expiry=self._client.token_expiry,
            unusable=self._asking.unusable,
        )

    def stop(self) -> None:
        """End the round that runs before its next request, and begin no other."""
        self._stopped.set()
        with self._mutex:
            self._given_back.notify_all()

    def ended(self, timeout: float) -> bool:
        """Wait until no round runs; whether that came true within so many seconds."""
        ended = self._running.acquire(timeout=max(0.0, timeout))
        if ended:
            self._running.release()
        return ended

    def round(self) -> None:
        """Ask for what is due, until nothing is, the budget is spent for this minute, or the API is down."""
        with self._running:
            going = self._turns.begin()
            try:
                self._ask_all(going)
            except Exception:
                # Not even a defect of the planning keeps what is known from being shown. The scheduler logs it.
                self._sum_up(going)
                raise
            self._sum_up(going)
            self._link = replace(self._link, round_timestamp=self._clock.now())

    def _ask_all(self, going: Round) -> None:
        if self._poll.concurrency == 1:
            self._work(going)
        else:
            with ThreadPoolExecutor(self._poll.concurrency) as pool:
                workers = [pool.submit(self._work, going) for _ in range(self._poll.concurrency)]
            for worker in workers:
                worker.result()
        if going.suspects and going.witness is not None and not going.down:
            self._acquit(going)
        elif going.suspects:
            self._blame_api(going)

    def _work(self, going: Round) -> None:
        while (task := self._take(going)) is not None:
            sent = True
            try:
                sent = self._attempt(task, going)
            except Exception as error:  # noqa: BLE001 - what nobody foresaw is the incident of this task alone
                with self._mutex:
                    self._note_failure(going, task, Unhandled.by(error))
            finally:
                with self._mutex:
                    self._turns.give_back(task, going, sent=sent)
                    self._given_back.notify_all()

    def _take(self, going: Round) -> Task | None:
        """What to ask for next; None where the round ends."""
        with self._mutex:
            # Not a sleep of the clock: what ends this wait is another thread.
            self._given_back.wait_for(lambda: self._stopped.is_set() or not self._turns.held_up(going))
            return None if self._stopped.is_set() else self._turns.take(going)

    def _attempt(self, task: Task, going: Round) -> bool:
        """Ask once, and note how it went; or wait for the budget, and say that it was not sent."""
        try:
            done = self._asking.ask(task)
        except BudgetSpent as spent:
            self._wait(spent.wait, going)
            return False
        except StateWriteFailed as error:
            with self._mutex:
                # Without a note of each request the limit could be broken after a restart, so none can leave. The
                # process reports it once, for all merchants.
                going.over = going.unwritable = True
                self._down(str(error))
        except ApiError as error:
            with self._mutex:
                self._note_failure(going, task, error)
        else:
            with self._mutex:
                self._turns.answered(task)
                if done:
                    self._note_answer(going, task)
                if problem := self._asking.problem(task):
                    self._report(Failure(UNUSABLE, "", problem))
        return True

    def _wait(self, seconds: float, going: Round) -> None:
        with self._mutex:
            going.waited = True
            going.over |= self._clock.monotonic() + seconds > self._turns.deadline(going)
        if not going.over:
            self._clock.sleep(seconds)

    def _note_answer(self, going: Round, task: Task) -> None:
        self._link = replace(self._link, last_success=self._clock.now())
        if isinstance(task, Stream):
            # While the API wants to be left alone, the late answer of a request that was on its way says nothing.
            self._link = replace(self._link, up=not self._limiter.held)
            if self._renewals != self._client.renewals:
                self._renewals = self._client.renewals
                self._rests.token_renewed()
                going.suspects = [each for each in going.suspects if not isinstance(each[1], Unauthorized)]
            going.witness = going.witness or task
        # The catalog's answer says something of the catalog.
        speaks = isinstance(task, Stream) or not going.streams_suspected
        if speaks and not going.down and task not in going.sent_before:
            self._acquit(going)
        self._rests.answered(task)

    def _note_failure(self, going: Round, task: Task, error: ApiError) -> None:
        going.failures[task] += 1
        self._link = replace(self._link, last_error=str(error), last_error_at=self._clock.now())
        if isinstance(error, RateLimited) or self._link.up is None:
            self._down()
        if isinstance(error, RateLimited):
            self._report(self._rests.limited(error))
            self._put_off(task)
            return
        if isinstance(error, Unhandled):
            # The API has nothing to do with it.
            self._blame(going, task, error)
            return
        strikes = self._rests.strikes(task, error, answered=going.witness is not None)
        if not strikes:
            going.failed_again += isinstance(task, Stream)
            self._blame(going, task, error)
            return
        decides = going.in_doubt and task == going.witness
        going.suspects.append((task, error))
        going.strikes += strikes
        going.sent_before = going.under_way - {task}
        if decides or isinstance(error, SignInFailed) or (going.witness is None and going.in_doubt):
            self._blame_api(going)

    def _acquit(self, going: Round) -> None:
        """The API works: what failed did so by itself."""
        for task, error in going.suspects:
            self._blame(going, task, error)
        going.suspects, going.strikes = [], 0

    def _blame(self, going: Round, task: Task, error: ApiError) -> None:
        """Leave alone what failed by itself."""
        if isinstance(task, WarmupRequest) and isinstance(error, BadRequest) and going.witness is not None:
            # Perhaps the range was too long.
            self._watch.refused(task)
            return
        failure = self._rests.failed(task, error, self._clock.monotonic())
        self._report(failure, error)
        if not isinstance(task, Stream):
            going.failed_asides += failure.strikes
            self._turns.rest_asides(retry_after(error) or 0.0)
            self._put_off(task)

    def _blame_api(self, going: Round) -> None:
        """End the round: the API is down."""
        going.over = going.down = True
        self._down()
        for failure in self._rests.api_failed(going.suspects):
            self._report(failure)
        wait = max(retry_after(error) or 0.0 for _, error in going.suspects)
        going.suspects, going.strikes = [], 0
        if wait:
            # Where it cannot be written, no request leaves in any case.
            with contextlib.suppress(StateWriteFailed):
                self._limiter.hold(wait)

    def _down(self, error: str = "") -> None:
        """Note that the API as a whole fails, or that no request can leave, and why where that is not noted yet."""
        self._link = replace(self._link, up=False)
        if error:
            self._link = replace(self._link, last_error=error, last_error_at=self._clock.now())

    def _put_off(self, task: Task) -> None:
        match task:
            case Lookup():
                self._catalog.failed(task, self._clock.now())
            case WarmupRequest():
                self._watch.failed(task, self._clock.now())
            case _:
                pass

    # ---- what is told, and how fresh it all is ----

    def _sum_up(self, going: Round) -> None:
        now = self._clock.now()
        with self._contained("log"):
            if not self._limiter.held:
                # Until then nothing is asked for, so nothing shows that a failure has ended.
                for event in self._faults.settle(now, self._rests.faults | self._asking.faults):
                    self._tell(event)
        with self._contained("drop detector"):
            for media_id, error in self._watch.judge(now).items():
                self._defect(f"drop detector, {f'media {media_id}' if media_id else 'whole merchant'}", error)
        with self._contained("state file"):
            if not going.unwritable:
                self._save()
        with self._contained("staleness"):
            self._measure()

    def _measure(self) -> None:
        """Show how stale it all is."""
        moment = self._staleness.moment(self._clock.now(), self._clock.monotonic())
        weights = self._staleness.weights(moment)
        self._link = replace(self._link, staleness_minutes=self._staleness.mean(weights, moment))
        if not 0 < self._bound_due - self._clock.monotonic() <= BOUND_EVERY:
            self._bound_due = self._clock.monotonic() + BOUND_EVERY
            bound = lower_bound(list(weights.values()), self._limit, int(self._poll.max_staleness // MINUTE))
            self._link = replace(self._link, staleness_bound_minutes=bound)
        self._link = replace(
            self._link,
            failing=self._rests.failing_streams,
            gone=self._rests.gone,
            failing_lookups=self._rests.failing_lookups,
        )

    @contextlib.contextmanager
    def _contained(self, part: str) -> Iterator[None]:
        """Let what nobody foresaw be the end of this part of a round only."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is reported
            self._defect(part, error)

    def _defect(self, part: str, error: Exception) -> None:
        """Report what nobody foresaw in a part of the exporter."""
        found = Unhandled.by(error)
        self._link = replace(self._link, last_error=f"{part}: {found}", last_error_at=self._clock.now())
        self._report(Failure(DEFECT, part, str(found)), found)

    def _save(self) -> None:
        try:
            self._watch.save_now_and_then(self._clock.now())
        except StateWriteFailed as error:
            self._report(Failure("state file", "", str(error)))

    def _report(self, failure: Failure, error: ApiError | None = None) -> None:
        event = self._faults.report(failure.key, failure.message, self._clock.now(), name=failure.name)
        if event is not None and isinstance(error, Unhandled):
            # With the place where it was raised.
            log.error(event.message, merchant=self.merchant_id, exc_info=error.__cause__)
        elif event is not None:
            self._tell(event)

    def _tell(self, event: IncidentEvent) -> None:
        if event.kind == "begin":
            log.warning(event.line, merchant=self.merchant_id)
            return
        since = datetime.fromtimestamp(event.since, UTC).isoformat(timespec="seconds")
        say = log.info if event.kind == "end" else log.warning
        say(event.line, merchant=self.merchant_id, since=since, times=event.count)
