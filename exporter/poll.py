"""The polling: rounds of requests, one after each minute's settling, for each merchant apart from the others."""

import threading
from collections import Counter
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
from exporter.model import Group, Minute, Stream, Target
from exporter.plan import Candidate, choose
from exporter.snapshot import LinkView

log = structlog.get_logger("poll")

# A round that waits for the budget does not wait past the next minute's settling.
ROUND = 60.0

# A stream that fails is asked for again once in a round, after all others.
ATTEMPTS = 2

# So many failures in a row that are not one stream's own end the round: the API is down.
STRIKES = 3

# Where the budget is short, one request in ten is for the catalog, so that names come at all.
REQUESTS_PER_LOOKUP = 9

# Seconds until a stream whose own request fails is asked for again; twice as long after each further failure.
FIRST_REST = {BadRequest: 60.0, MalformedAnswer: 60.0, NotFound: 900.0}
LONGEST_REST = {BadRequest: 1800.0, MalformedAnswer: 1800.0, NotFound: 6 * 3600.0}


@dataclass(slots=True)
class _Rest:
    """How a stream that failed by itself is left alone for a while."""

    failures: int
    until: float


class MerchantPoller:
    """One merchant's polling. A round runs on one thread at a time; `link` can be read from any."""

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
        self._poll = poll
        self._ledger = ledger
        self._catalog = catalog
        self._limiter = limiter
        self._client = client
        self._clock = clock
        self._faults = faults
        self._stopped = threading.Event()
        self._running = threading.Lock()
        self._streams = merchant.streams()
        self._pace_maker = Stream(merchant.id, "", Target.PLAY_COUNT, Group.ALL)
        # The newest minute that each stream's last answer was asked up to.
        self._asked: dict[Stream, Minute] = {}
        self._rests: dict[Stream, _Rest] = {}
        # Lengths to try where the API refused a longer range.
        self._trials: dict[Stream, int] = {}
        self._since_lookup = REQUESTS_PER_LOOKUP
        self._link = LinkView(merchant.id, budget=limiter.allowed)

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
            self._run_round(_Round(deadline=self._clock.monotonic() + ROUND))

    def _run_round(self, going: "_Round") -> None:
        while not self._stopped.is_set() and going.strikes < STRIKES:
            task = self._next(going)
            if task is None:
                break
            try:
                self._look_up(task) if isinstance(task, Lookup) else self._refresh(task)
            except BudgetSpent as spent:
                if self._clock.monotonic() + spent.wait > going.deadline:
                    break
                self._clock.sleep(spent.wait)
            except StateWriteFailed as error:
                self._report("state file", str(error))
                break
            except ApiError as error:
                self._note_failure(going, task, error)
            else:
                going.strikes = 0
                self._link = replace(self._link, up=True, last_success=self._clock.now())
            self._since_lookup = 0 if isinstance(task, Lookup) else self._since_lookup + 1
        for event in self._faults.settle(self._clock.now()):
            self._tell(event)

    def _next(self, going: "_Round") -> Stream | Lookup | None:
        """The merchant's whole plays first, then the streams, the catalog last but for its share."""
        now = self._clock.now()
        if self._is_due(self._pace_maker, going, now):
            return self._pace_maker
        lookup = self._catalog.next_lookup(now)
        if lookup is not None and self._since_lookup >= REQUESTS_PER_LOOKUP:
            return lookup
        due = (stream for stream in self._streams if self._is_due(stream, going, now))
        candidates = (
            Candidate(stream, self._newest(stream, now) - self._ledger.through(stream), going.failures[stream])
            for stream in due
        )
        return choose(candidates) or lookup

    def _is_due(self, stream: Stream, going: "_Round", now: float) -> bool:
        rest = self._rests.get(stream)
        if going.failures[stream] >= ATTEMPTS or (rest is not None and self._clock.monotonic() < rest.until):
            return False
        asked = self._asked.get(stream)
        # What one answer has not shown of a minute, another in the same minute would hardly show.
        if asked is None or asked >= ended_before(now, self._poll.settle):
            return asked is None
        return self._newest(stream, now) > self._ledger.through(stream)

    def _newest(self, stream: Stream, now: float) -> Minute:
        """The newest minute that a stream could count."""
        # The whole merchant's plays are asked for before any row has shown that the minute is settled: they show it.
        if stream.target.by_day or stream == self._pace_maker:
            return ended_before(now, self._poll.settle)
        return self._ledger.settled(self.merchant_id, now)

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
        self._rests.pop(stream, None)
        if trial is not None:
            del self._trials[stream]
            if len(asked) == trial:
                self._ledger.believe_range(self.merchant_id, trial, now)
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

    def _note_failure(self, going: "_Round", task: Stream | Lookup, error: ApiError) -> None:
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
        self._report(f"{own.__name__} {task}", f"{task}: {error}")
        if isinstance(task, Stream) and task != self._pace_maker:
            failures = self._rests[task].failures + 1 if task in self._rests else 1
            seconds = min(FIRST_REST[own] * 2 ** (failures - 1), LONGEST_REST[own])
            self._rests[task] = _Rest(failures, self._clock.monotonic() + seconds)

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


@dataclass(slots=True)
class _Round:
    """One round: until when it may wait, and how it goes."""

    deadline: float
    failures: Counter[Stream | Lookup] = field(default_factory=Counter)
    strikes: int = 0
