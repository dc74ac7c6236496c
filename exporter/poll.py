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
from exporter.history import History
from exporter.ledger import Ledger
from exporter.limiter import Limiter
from exporter.model import MINUTE, Group, Minute, Stream, Target
from exporter.plan import Candidate, can_hold, choose, lower_bound
from exporter.snapshot import LinkView
from exporter.watch import Watch
from exporter.weights import FLOOR, plays_weights, stream_factors

log = structlog.get_logger("poll")

# A round that waits for the budget does not wait past the next minute's settling.
ROUND = 50.0

# For so long it waits for its first request. A request's place is free again a minute after its answer, so rounds begin
# to ask a little later each time. Rather than at the end of a minute, they then ask first thing in the next.
FIRST_WAIT = 20.0

# A stream that fails and is not left alone is asked for again once in a round, after all others.
ATTEMPTS = 2

# So many failures without an answer end the round: the API is down. So many for the catalog or the past end those of
# the round: the catalog can be down, or closed to the account, while the counting goes on.
STRIKES = 3

# Where the budget is short, one request in ten is for the catalog and the past, so that they come at all.
REQUESTS_PER_LOOKUP = 9

# Of a round's requests, live events that run have at most one in so many, before all but the whole merchant's plays.
REQUESTS_PER_LIVE_EVENT = 4

# Seconds until what failed by itself is asked for again; twice as long after each further failure.
FIRST_REST = {BadRequest: 60.0, MalformedAnswer: 60.0, NotFound: 900.0}
LONGEST_REST = {BadRequest: 1800.0, MalformedAnswer: 1800.0, NotFound: 6 * 3600.0}

# The same for any other failure of a stream while the API answers for others. At first it is over by the next minute.
FIRST_PAUSE, LONGEST_PAUSE = 45.0, 900.0

# The bound on the staleness changes slowly, and takes a while to compute.
BOUND_EVERY = 600.0

Task = Stream | Lookup | History


@dataclass(frozen=True, slots=True)
class _Rest:
    """How what failed by itself is left alone for a while."""

    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is the same for all streams while they are looked at.

    Attributes:
        complete: The newest minute that ended `settle` ago.
        settled: The newest settled minute.
        monotonic: Monotonic seconds.
    """

    complete: Minute
    settled: Minute
    monotonic: float


@dataclass(slots=True)
class _Round:
    """One round: until when it may wait, what is left to ask for, and how it goes.

    Attributes:
        deadline: Until when it may wait (monotonic seconds).
        queue: The streams to ask for, the first last.
        planned_for: The newest complete minute for which that was planned.
        under_way: What is being asked for.
        failures: How often each request has failed.
        answered: Whether anything has been answered, so the API works.
        strikes: Failures before that.
        live_left: Requests that are left for live events that run.
        failed_asides: Requests for the catalog and the past that failed, but for the budget's sake.
        over: Whether nothing more is to be asked for.
    """

    deadline: float
    queue: list[Stream] = field(default_factory=list)
    planned_for: Minute | None = None
    under_way: set[Task] = field(default_factory=set)
    failures: Counter[Task] = field(default_factory=Counter)
    answered: bool = False
    strikes: int = 0
    live_left: int = 0
    failed_asides: int = 0
    over: bool = False


class MerchantPoller:
    """One merchant's polling. One round runs at a time; `link` can be read from any thread."""

    def __init__(
        self,
        merchant: MerchantSettings,
        poll: PollSettings,
        ledger: Ledger,
        catalog: Catalog,
        watch: Watch,
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
        self._watch = watch
        self._limiter = limiter
        self._client = client
        self._clock = clock
        self._faults = faults
        self._stopped = threading.Event()
        self._running = threading.Lock()
        self._factors = stream_factors(merchant, poll)
        self._longest_wait = int(poll.max_staleness // MINUTE)
        self._pace_maker = Stream(merchant.id, "", Target.PLAY_COUNT, Group.ALL)
        # What is asked for before any row has shown that the minute is settled. The whole merchant's plays show it.
        self._not_waiting = {self._pace_maker, *(stream for stream in self._factors if stream.target.by_day)}
        # What follows is shared by the threads of a round.
        self._mutex = threading.Lock()
        # The newest minute that each stream's last answer was asked up to.
        self._asked: dict[Stream, Minute] = {}
        # By stream, or for media that are gone by media id.
        self._rests: dict[Stream | str, _Rest] = {}
        # The fault of each stream, media, lookup or past that fails by itself, until it is answered.
        self._faulty: dict[Stream | Lookup | str, str] = {}
        # Lengths to try where the API refused a longer range.
        self._trials: dict[Stream, int] = {}
        self._since_lookup = REQUESTS_PER_LOOKUP
        self._past_first = True
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
            started = self._clock.monotonic()
            going = _Round(
                deadline=started + FIRST_WAIT, live_left=int(self._limiter.allowed) // REQUESTS_PER_LIVE_EVENT
            )
            # Alone and first: its answer shows which minutes are settled, and so what else is due.
            if not self._stopped.is_set() and self._wait_so_far(self._pace_maker, going, self._moment()):
                self._attempt(self._pace_maker, going)
            going.deadline = started + ROUND
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
            sent = True
            try:
                sent = self._attempt(task, going)
            finally:
                with self._mutex:
                    going.under_way.discard(task)
                    if not sent and isinstance(task, Stream):
                        # Still the one most worth having; when a minute has settled meanwhile, all is planned anew.
                        going.queue.append(task)
                    elif not sent:
                        self._since_lookup = REQUESTS_PER_LOOKUP

    # ---- what to ask for ----

    def _next(self, going: _Round) -> Task | None:
        """The streams as planned; the catalog and the past when nothing else is due, or after they waited long."""
        if going.over or going.strikes >= STRIKES:
            return None
        if going.live_left > 0:
            going.live_left -= 1
            event = self._next_lookup(going, running_only=True)
            if event is not None:
                return event
            going.live_left = 0
        if self._since_lookup >= REQUESTS_PER_LOOKUP:
            # To look through these takes a while: it is done again after as many requests, found or not.
            self._since_lookup = 0
            # By turns, or live events that run could take all of it.
            self._past_first = not self._past_first
            aside = (self._next_past(going) if self._past_first else None) or self._next_aside(going)
            if aside is not None:
                return aside
        moment = self._moment()
        if moment.complete != going.planned_for or not going.queue:
            # To plan takes a while, too.
            if moment.monotonic + self._limiter.wait() > going.deadline:
                going.over = True
                return None
            going.planned_for = moment.complete
            going.queue = self._plan(going, moment)
        while going.queue:
            stream = going.queue.pop()
            # One of its media's streams may just have heard that the media is gone.
            if not self._rests_now(stream, moment):
                return stream
        return self._next_aside(going)

    def _next_aside(self, going: _Round) -> Lookup | History | None:
        return self._next_lookup(going) or self._next_past(going)

    def _next_lookup(self, going: _Round, *, running_only: bool = False) -> Lookup | None:
        if going.strikes or going.failed_asides >= STRIKES:
            return None
        return self._catalog.next_lookup(self._clock.now(), going.under_way, running_only=running_only)

    def _next_past(self, going: _Round) -> History | None:
        if going.strikes or going.failed_asides >= STRIKES:
            return None
        now = self._clock.now()
        return self._watch.next_history(now, self._ledger.settled(self.merchant_id, now), going.under_way)

    def _plan(self, going: _Round, moment: _Moment) -> list[Stream]:
        """The streams to ask for in this minute, the first last."""
        if self._wait_so_far(self._pace_maker, going, moment):
            return [self._pace_maker]
        # Only numbers are looked up for each stream: there may be thousands.
        candidates = [
            Candidate(stream, weight, wait)
            for stream, weight in self._weights(moment).items()
            if (wait := self._wait_so_far(stream, going, moment))
        ]
        # One place in a minute is the whole merchant's.
        room = max(1, int(self._limiter.allowed) - 1)
        # With a minute in hand, where there is one: some of a round can slip into the next.
        spare = can_hold(len(self._factors), room, self._longest_wait - 1)
        longest = self._longest_wait - 1 if spare else self._longest_wait
        chosen = choose(candidates, room, len(self._factors), longest)
        return sorted(chosen, key=lambda stream: going.failures[stream])[::-1]

    def _wait_so_far(self, stream: Stream, going: _Round, moment: _Moment) -> int:
        """A stream's staleness where it is due, at least 1; else 0."""
        if stream in going.under_way or (going.failures and going.failures[stream] >= ATTEMPTS):
            return 0
        if self._rests and self._rests_now(stream, moment):
            return 0
        through = self._ledger.through(stream)
        staleness = self._newest(stream, moment) - through
        asked = self._asked.get(stream)
        # What one answer has not shown of a minute, another in the same minute would hardly show.
        due = asked != moment.complete and (
            # A clock that was ahead for a while has let minutes be counted as empty before they came.
            staleness > 0 or asked is None or through > moment.complete
        )
        return max(1, staleness) if due else 0

    def _rests_now(self, stream: Stream, moment: _Moment) -> bool:
        rests = (self._rests.get(stream), self._rests.get(stream.media_id))
        return any(rest is not None and moment.monotonic < rest.until for rest in rests)

    def _moment(self) -> _Moment:
        now = self._clock.now()
        return _Moment(
            complete=ended_before(now, self._poll.settle),
            settled=self._ledger.settled(self.merchant_id, now),
            monotonic=self._clock.monotonic(),
        )

    def _newest(self, stream: Stream, moment: _Moment) -> Minute:
        """The newest minute that a stream could count."""
        return moment.complete if stream in self._not_waiting else moment.settled

    def _weights(self, moment: _Moment) -> dict[Stream, float]:
        """What a minute of each stream's staleness costs."""
        known = self._ledger.plays(self.merchant_id)
        whole = known.pop("")
        plays = plays_weights(whole, known, moment.settled)
        plays[""] = max(FLOOR, whole.rate if whole.rate is not None else sum(plays.values()))
        return {stream: plays[stream.media_id] * factor for stream, factor in self._factors.items()}

    # ---- asking ----

    def _attempt(self, task: Task, going: _Round) -> bool:
        """Ask once, and note how it went; or wait for the budget, and say that it was not sent."""
        try:
            match task:
                case Lookup():
                    self._look_up(task)
                case History():
                    self._look_back(task)
                case _:
                    self._refresh(task)
        except BudgetSpent as spent:
            self._wait(spent.wait, going)
            return False
        except StateWriteFailed as error:
            with self._mutex:
                going.over = True
                self._report("state file", str(error))
        except ApiError as error:
            with self._mutex:
                self._note_failure(going, task, error)
        else:
            with self._mutex:
                going.answered, going.strikes = True, 0
                self._since_lookup = self._since_lookup + 1 if isinstance(task, Stream) else 0
                self._link = replace(self._link, up=True, last_success=self._clock.now())
        return True

    def _wait(self, seconds: float, going: _Round) -> None:
        with self._mutex:
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
        self._watch.enter(stream, asked, rows, self._ledger.seen(stream), self._clock.now())
        if trial is not None and len(asked) == trial:
            self._ledger.believe_range(self.merchant_id, trial, now)
        with self._mutex:
            self._trials.pop(stream, None)
            for each in (stream, stream.media_id):
                self._rests.pop(each, None)
                self._faulty.pop(each, None)
            # A range that was cut short goes on at once, unless there is nothing settled beyond it.
            if asked.last >= self._ledger.settled(self.merchant_id, now):
                self._asked[stream] = ended_before(now, self._poll.settle)

    def _look_up(self, lookup: Lookup) -> None:
        if lookup.live_event_id:
            event = self._client.live_event(lookup.live_event_id)
            self._catalog.enter_live(lookup, event, self._clock.now())
        else:
            media = self._client.media(lookup.media_id)
            self._catalog.enter_media(lookup, media, self._clock.now())
        with self._mutex:
            # A media's answer tells which live event it has now: one that it had before is not asked for again.
            of_media = [each for each in self._faulty if isinstance(each, Lookup) and each.media_id == lookup.media_id]
            for each in of_media:
                if each == lookup or not lookup.live_event_id:
                    del self._faulty[each]

    def _look_back(self, history: History) -> None:
        try:
            rows = self._client.aggregations(history.stream, history.asked, hourly=history.hourly)
        except BadRequest:
            self._watch.refused(history)
        else:
            self._watch.enter_history(history, rows)
        with self._mutex:
            self._faulty.pop(_faulty_key(history), None)

    # ---- what went wrong, and how fresh it all is ----

    def _note_failure(self, going: _Round, task: Task, error: ApiError) -> None:
        now = self._clock.now()
        going.failures[task] += 1
        self._link = replace(self._link, up=False, last_error=str(error), last_error_at=now)
        if isinstance(task, Lookup):
            self._catalog.failed(task, now)
        if isinstance(task, History):
            self._watch.failed(task, now)
        own = next((kind for kind in FIRST_REST if isinstance(error, kind)), None)
        if own is None:
            self._note_strike(going, task, error)
            return
        gone = isinstance(error, NotFound) and task != self._pace_maker
        fault = f"{own.__name__} {task.media_id if gone else task}"
        self._report(fault, f"{f'media {task.media_id}' if gone else task}: {error}")
        if not isinstance(task, Stream):
            self._faulty[_faulty_key(task)] = fault
        elif task != self._pace_maker:
            # A media that is gone is gone for all its streams: one of them asks now and then.
            what = task.media_id if gone else task
            self._faulty[what] = fault
            self._leave_alone(what, FIRST_REST[own], LONGEST_REST[own])

    def _note_strike(self, going: _Round, task: Task, error: ApiError) -> None:
        """Note a failure that can be the whole API's."""
        fault = f"{'' if isinstance(task, Stream) else type(task).__name__} {type(error).__name__}"
        self._report(fault, str(error))
        if isinstance(error, RateLimited):
            # It is waited for.
            return
        # A refused password is not accepted a second later.
        strikes = STRIKES if isinstance(error, Unauthorized) else 1
        if not isinstance(task, Stream):
            self._faulty[_faulty_key(task)] = fault
            going.failed_asides += strikes
            return
        if going.answered and task != self._pace_maker and self._leave_alone(task, FIRST_PAUSE, LONGEST_PAUSE) > 1:
            # Once alone can be the beginning of an outage.
            self._faulty[task] = fault
        if not going.answered or strikes == STRIKES:
            going.strikes += strikes

    def _leave_alone(self, what: Stream | str, first: float, longest: float) -> int:
        """Let a stream or a media rest, twice as long after each failure; how often it has failed."""
        failures = self._rests[what].failures + 1 if what in self._rests else 1
        seconds = min(first * 2 ** (failures - 1), longest)
        self._rests[what] = _Rest(failures, self._clock.monotonic() + seconds)
        return failures

    def _sum_up(self) -> None:
        now = self._clock.now()
        for event in self._faults.settle(now, set(self._faulty.values())):
            self._tell(event)
        self._watch.judge(now)
        self._save()
        moment = self._moment()
        weights = self._weights(moment)
        waits = {stream: max(0, self._newest(stream, moment) - self._ledger.through(stream)) for stream in weights}
        mean = sum(weight * waits[stream] for stream, weight in weights.items()) / sum(weights.values())
        self._link = replace(self._link, staleness=mean)
        if not 0 < self._bound_due - self._clock.monotonic() <= BOUND_EVERY:
            self._bound_due = self._clock.monotonic() + BOUND_EVERY
            bound = lower_bound(list(weights.values()), self._limit, self._longest_wait)
            self._link = replace(self._link, staleness_bound=bound)

    def _save(self) -> None:
        try:
            self._watch.save_now_and_then(self._clock.now())
        except StateWriteFailed as error:
            self._report("state file", str(error))

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


def _faulty_key(task: Lookup | History) -> Lookup | str:
    # The same past is asked for by another range each time.
    return task if isinstance(task, Lookup) else str(task)
