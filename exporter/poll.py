"""The polling: rounds of requests, one after each minute's settling, for each merchant apart from the others."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from exporter.catalog import Catalog, Lookup
from exporter.client import Client
from exporter.clock import Clock
from exporter.config import MerchantSettings, PollSettings
from exporter.counting import SHORTEST_RANGE, ended_before
from exporter.errors import (
    ApiError,
    BadRequest,
    BudgetSpent,
    MalformedAnswer,
    NotFound,
    RateLimited,
    StateWriteFailed,
    Unauthorized,
)
from exporter.faults import FaultEvent, Faults
from exporter.ledger import Ledger
from exporter.limiter import Limiter
from exporter.model import MINUTE, Group, Minute, Stream, Target
from exporter.plan import Candidate, choose, lower_bound
from exporter.snapshot import LinkView
from exporter.weights import FLOOR, plays_weights, stream_factors

log = structlog.get_logger("poll")

# A round that waits for the budget does not wait past the next minute's settling.
ROUND = 60.0

# A stream that fails is asked for again once in a round, after all others.
ATTEMPTS = 2

# So many failures in a row that are not one stream's own end the round: the API is down.
STRIKES = 3

# Where the budget is short, one request in ten is for the catalog, so that names come at all.
REQUESTS_PER_LOOKUP = 9

# Seconds until what failed by itself is asked for again; twice as long after each further failure.
FIRST_REST = {BadRequest: 60.0, MalformedAnswer: 60.0, NotFound: 900.0}
LONGEST_REST = {BadRequest: 1800.0, MalformedAnswer: 1800.0, NotFound: 6 * 3600.0}

# The bound on the staleness changes slowly, and takes a while to compute.
BOUND_EVERY = 600.0

Task = Stream | Lookup


@dataclass(frozen=True, slots=True)
class _Rest:
    """How what failed by itself is left alone for a while."""

    failures: int
    until: float


@dataclass(slots=True)
class _Round:
    """One round: until when it may wait, what is left to ask for, and how it goes."""

    deadline: float
    queue: list[Stream] = field(default_factory=list)
    planned_for: Minute | None = None
    under_way: set[Task] = field(default_factory=set)
    failures: Counter[Task] = field(default_factory=Counter)
    strikes: int = 0
    over: bool = False


class MerchantPoller:
    """One merchant's polling. One round runs at a time; `link` can be read from any thread."""

    def __init__(
        self,
        merchant: MerchantSettings,
        poll: PollSettings,
        ledger: Ledger,
        catalog: Catalog,
        limiter: Limiter,
        client: Client,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self.merchant_id = merchant.id
        self._limit = merchant.requests_per_minute
        self._poll = poll
        self._ledger = ledger
        self._catalog = catalog
        self._limiter = limiter
        self._client = client
        self._clock = clock
        self._faults = faults
        self._stopped = threading.Event()
        self._running = threading.Lock()
        self._factors = stream_factors(merchant, poll)
        self._media = [media.id for media in merchant.media]
        self._longest_wait = int(poll.max_staleness // MINUTE)
        self._pace_maker = Stream(merchant.id, "", Target.PLAY_COUNT, Group.ALL)
        # What follows is shared by the threads of a round.
        self._mutex = threading.Lock()
        # The newest minute that each stream's last answer was asked up to.
        self._asked: dict[Stream, Minute] = {}
        # By stream, or for media that are gone by media id.
        self._rests: dict[Stream | str, _Rest] = {}
        # Lengths to try where the API refused a longer range.
        self._trials: dict[Stream, int] = {}
        self._since_lookup = REQUESTS_PER_LOOKUP
        self._bound_due = 0.0
        self._link = LinkView(merchant.id, budget=limiter.allowed, streams=len(self._factors))

    @property
    def link(self) -> LinkView:
        """How the connection to the API does."""
        return replace(self._link, budget=self._limiter.allowed, token_expiry=self._client.token_expiry)

    def stop(self) -> None:
        """End the round that runs before its next request, and begin no other."""
        self._stopped.set()

    def ended(self, timeout: float) -> bool:
        """Wait until no round runs; whether that came true within so many seconds."""
        ended = self._running.acquire(timeout=max(0.0, timeout))
        if ended:
            self._running.release()
        return ended

    def round(self) -> None:
        """Ask for what is due, until nothing is, the budget is spent for this minute, or the API is down."""
        with self._running:
            going = _Round(deadline=self._clock.monotonic() + ROUND)
            # Alone and first: its answer shows which minutes are settled, and so what else is due.
            if not self._stopped.is_set() and self._is_due(self._pace_maker, going, self._clock.now()):
                self._attempt(self._pace_maker, going)
            if self._poll.concurrency == 1:
                self._work(going)
            else:
                with ThreadPoolExecutor(self._poll.concurrency) as pool:
                    workers = [pool.submit(self._work, going) for _ in range(self._poll.concurrency)]
                for worker in workers:
                    worker.result()
            self._sum_up()

    def _work(self, going: _Round) -> None:
        while not self._stopped.is_set():
            with self._mutex:
                task = self._next(going)
                if task is None:
                    return
                going.under_way.add(task)
            try:
                self._attempt(task, going)
            finally:
                with self._mutex:
                    going.under_way.discard(task)

    # ---- what to ask for ----

    def _next(self, going: _Round) -> Task | None:
        """The streams as planned; the catalog when nothing else is due, or where it has waited for its share."""
        if going.over or going.strikes >= STRIKES:
            return None
        now = self._clock.now()
        lookup = self._catalog.next_lookup(now, going.under_way)
        if lookup is not None and self._since_lookup >= REQUESTS_PER_LOOKUP:
            return lookup
        complete = ended_before(now, self._poll.settle)
        if complete != going.planned_for or not going.queue:
            going.planned_for = complete
            going.queue = self._plan(going, now)
        while going.queue:
            stream = going.queue.pop()
            # One of its media's streams may just have heard that the media is gone.
            if not self._rests_now(stream):
                return stream
        return lookup

    def _plan(self, going: _Round, now: float) -> list[Stream]:
        """The streams to ask for in this minute, the first last."""
        due = [stream for stream in self._factors if self._is_due(stream, going, now)]
        if not due:
            return []
        if self._pace_maker in due:
            return [self._pace_maker]
        weights = self._weights(now)
        candidates = [Candidate(stream, weights[stream], self._staleness(stream, now)) for stream in due]
        room = max(1, int(self._limiter.allowed))
        chosen = choose(candidates, room, len(self._factors), self._longest_wait)
        return sorted(chosen, key=lambda stream: going.failures[stream])[::-1]

    def _is_due(self, stream: Stream, going: _Round, now: float) -> bool:
        if going.failures[stream] >= ATTEMPTS or stream in going.under_way or self._rests_now(stream):
            return False
        asked = self._asked.get(stream)
        complete = ended_before(now, self._poll.settle)
        # What one answer has not shown of a minute, another in the same minute would hardly show.
        if asked is None or asked == complete:
            return asked is None
        through = self._ledger.through(stream)
        # A clock that was ahead for a while has let minutes be counted as empty before they came.
        return through > complete or self._newest(stream, now) > through

    def _rests_now(self, stream: Stream) -> bool:
        monotonic = self._clock.monotonic()
        rests = (self._rests.get(stream), self._rests.get(stream.media_id))
        return any(rest is not None and monotonic < rest.until for rest in rests)

    def _newest(self, stream: Stream, now: float) -> Minute:
        """The newest minute that a stream could count."""
        # The whole merchant's plays are asked for before any row has shown that the minute is settled: they show it.
        if stream.target.by_day or stream == self._pace_maker:
            return ended_before(now, self._poll.settle)
        return self._ledger.settled(self.merchant_id, now)

    def _staleness(self, stream: Stream, now: float) -> int:
        return max(1, self._newest(stream, now) - self._ledger.through(stream))

    def _weights(self, now: float) -> dict[Stream, float]:
        """What a minute of each stream's staleness costs."""
        known = self._ledger.plays(self.merchant_id, ("", *self._media), now)
        whole = known.pop("")
        plays = plays_weights(whole, known)
        plays[""] = max(FLOOR, whole.rate if whole.rate is not None else sum(plays.values()))
        return {stream: plays[stream.media_id] * factor for stream, factor in self._factors.items()}

    # ---- asking ----

    def _attempt(self, task: Task, going: _Round) -> None:
        """Ask once, and note how it went."""
        try:
            self._look_up(task) if isinstance(task, Lookup) else self._refresh(task)
        except BudgetSpent as spent:
            self._wait(spent.wait, going)
        except StateWriteFailed as error:
            with self._mutex:
                going.over = True
                self._report("state file", str(error))
        except ApiError as error:
            with self._mutex:
                self._note_failure(going, task, error)
        else:
            with self._mutex:
                going.strikes = 0
                self._since_lookup = 0 if isinstance(task, Lookup) else self._since_lookup + 1
                self._link = replace(self._link, up=True, last_success=self._clock.now())

    def _wait(self, seconds: float, going: _Round) -> None:
        with self._mutex:
            # What could not leave is planned anew: meanwhile something else may be worth more.
            going.queue = []
            going.over |= self._clock.monotonic() + seconds > going.deadline
        if not going.over:
            self._clock.sleep(seconds)

    def _refresh(self, stream: Stream) -> None:
        now = self._clock.now()
        trial = self._trials.get(stream)
        asked = self._ledger.to_ask(stream, now, trial)
        try:
            rows = self._client.aggregations(stream, asked)
        except BadRequest:
            if stream.target.by_day or len(asked) <= SHORTEST_RANGE:
                self._trials.pop(stream, None)
                raise
            # Perhaps the range was too long. What works is found by halves, and remembered.
            self._trials[stream] = max(SHORTEST_RANGE, len(asked) // 2)
            log.info("the API refused a long range; asking for half of it", stream=str(stream), minutes=len(asked))
            return
        self._ledger.enter(stream, asked, rows, self._clock.now())
        if trial is not None and len(asked) == trial:
            self._ledger.believe_range(self.merchant_id, trial, now)
        with self._mutex:
            self._trials.pop(stream, None)
            self._rests.pop(stream, None)
            self._rests.pop(stream.media_id, None)
            # A range that was cut short goes on at once, unless there is nothing settled beyond it.
            if asked.last >= self._ledger.settled(self.merchant_id, now):
                self._asked[stream] = ended_before(now, self._poll.settle)

    def _look_up(self, lookup: Lookup) -> None:
        if lookup.live_event_id:
            running = self._client.live_event_running(lookup.live_event_id)
            self._catalog.enter_live(lookup, self._clock.now(), running=running)
        else:
            media = self._client.media(lookup.media_id)
            self._catalog.enter_media(lookup, media, self._clock.now())

    # ---- what went wrong, and how fresh it all is ----

    def _note_failure(self, going: _Round, task: Task, error: ApiError) -> None:
        now = self._clock.now()
        going.failures[task] += 1
        self._link = replace(self._link, up=False, last_error=str(error), last_error_at=now)
        if isinstance(task, Lookup):
            self._catalog.failed(task, now)
        own = next((kind for kind in FIRST_REST if isinstance(error, kind)), None)
        if own is None:
            self._report(type(error).__name__, str(error))
            # A refused password is not accepted a second later. A refusal for the budget's sake is waited for.
            if not isinstance(error, RateLimited):
                going.strikes = STRIKES if isinstance(error, Unauthorized) else going.strikes + 1
            return
        gone = isinstance(error, NotFound) and task != self._pace_maker
        self._report(
            f"{own.__name__} {task.media_id if gone else task}",
            f"{f'media {task.media_id}' if gone else task}: {error}",
        )
        if isinstance(task, Stream) and task != self._pace_maker:
            # A media that is gone is gone for all its streams: one of them asks now and then.
            what = task.media_id if gone else task
            failures = self._rests[what].failures + 1 if what in self._rests else 1
            seconds = min(FIRST_REST[own] * 2 ** (failures - 1), LONGEST_REST[own])
            self._rests[what] = _Rest(failures, self._clock.monotonic() + seconds)

    def _sum_up(self) -> None:
        now = self._clock.now()
        for event in self._faults.settle(now):
            self._tell(event)
        weights = self._weights(now)
        waits = {stream: max(0, self._newest(stream, now) - self._ledger.through(stream)) for stream in weights}
        mean = sum(weight * waits[stream] for stream, weight in weights.items()) / sum(weights.values())
        self._link = replace(self._link, staleness=mean)
        if not 0 < self._bound_due - self._clock.monotonic() <= BOUND_EVERY:
            self._bound_due = self._clock.monotonic() + BOUND_EVERY
            bound = lower_bound(list(weights.values()), self._limit, self._longest_wait)
            self._link = replace(self._link, staleness_bound=bound)

    def _report(self, key: str, message: str) -> None:
        event = self._faults.report(key, message, self._clock.now())
        if event is not None:
            self._tell(event)

    def _tell(self, event: FaultEvent) -> None:
        since = datetime.fromtimestamp(event.since, UTC).isoformat(timespec="seconds")
        if event.kind == "end":
            log.info(f"over: {event.message}", merchant=self.merchant_id, since=since, times=event.count)
        elif event.kind == "remind":
            log.warning(f"still: {event.message}", merchant=self.merchant_id, since=since, times=event.count)
        else:
            log.warning(event.message, merchant=self.merchant_id)
