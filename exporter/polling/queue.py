"""Which request comes next in a round: the streams as planned, and the turns of the catalog, the past and live events.

It sends nothing and waits for nothing.
"""

from collections import Counter
from dataclasses import dataclass, field

from exporter.api.budget import LONGEST_WAIT, RequestBudget
from exporter.api.catalog import Catalog, Lookup
from exporter.clock import Clock
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import WarmupRequest
from exporter.errors import ApiError
from exporter.model import MINUTE, Minute, Stream
from exporter.planning.index import Candidate, can_hold, choose
from exporter.polling.backoff import STRIKES, Backoff, Task
from exporter.polling.staleness import Moment, Staleness

# A stream that fails and is not left alone is asked for again once in a round, after all others.
ATTEMPTS = 2

# Where the budget is short, one request in ten is for the catalog and the past, so that they come at all.
REQUESTS_PER_LOOKUP = 9

# When many streams are due again that failed before, so many failures in a round's requests are enough.
REQUESTS_PER_FAILURE = 10

# A round that has to wait for the budget lets its first request leave until so many seconds after its start, and its
# last until so many. A request's place is free again a minute after its answer, so without an end the whole round would
# be a little later each time, until it is a minute late. What is not sent by then, the least worthy, leaves its places
# free for the beginning of the next round. So a round moves back to its start by a few requests at a time.
FIRST_UNTIL, LAST_UNTIL = 50.0, 40.0

# Of a round's requests, live events that run have at most one in so many, before all but the whole merchant's plays.
REQUESTS_PER_LIVE_EVENT = 4


@dataclass(slots=True)
class Round:
    """One round: what is left to ask for, and how it goes.

    Attributes:
        started: When it began (monotonic seconds).
        live_left: Requests that are left for live events that run.
        queue: The streams to ask for, the first last.
        planned_for: The newest complete minute for which that was planned.
        under_way: What is being asked for.
        failures: How often each request has failed.
        witness: The stream that was answered first, so the API worked; None before that.
        suspects: What failed since a stream was answered, of which is not known whether the API fails.
        strikes: How much they say against the API.
        sent_before: What was on its way when the newest of them failed: its answer tells nothing of that.
        down: Whether the API has been found to fail.
        failed_again: How many streams failed that had failed when they were asked for before.
        failed_asides: Requests for the catalog and the past that failed, but for the budget's sake.
        sent: How many requests have left.
        waited: Whether it had to wait for the budget.
        over: Whether nothing more is to be asked for.
        unwritable: Whether the state file could not be written.
    """

    started: float
    live_left: int = 0
    queue: list[Stream] = field(default_factory=list)
    planned_for: Minute | None = None
    under_way: set[Task] = field(default_factory=set)
    failures: Counter[Task] = field(default_factory=Counter)
    witness: Stream | None = None
    suspects: list[tuple[Task, ApiError]] = field(default_factory=list)
    strikes: int = 0
    sent_before: set[Task] = field(default_factory=set)
    down: bool = False
    failed_again: int = 0
    failed_asides: int = 0
    sent: int = 0
    waited: bool = False
    over: bool = False
    unwritable: bool = False

    @property
    def in_doubt(self) -> bool:
        """Whether so much has failed that the API may be down: what was answered first is asked for once more."""
        return self.strikes >= STRIKES

    @property
    def unanswered(self) -> set[Task]:
        """What is under way, or has failed and is not judged."""
        return self.under_way | {task for task, _ in self.suspects}

    @property
    def streams_suspected(self) -> bool:
        """Whether the catalog and the past have to wait for the answer of a stream."""
        return any(isinstance(task, Stream) for task, _ in self.suspects)


class RequestQueue:
    """Whose turn it is, for one merchant. For one thread at a time."""

    def __init__(
        self,
        staleness: Staleness,
        rests: Backoff,
        catalog: Catalog,
        watch: DropMonitor,
        limiter: RequestBudget,
        clock: Clock,
        max_staleness: float,
    ) -> None:
        """Nothing has been asked for.

        Args:
            staleness: How much each stream is worth asking for.
            rests: Which streams are left alone.
            catalog: Which lookups are due.
            watch: What of the past is wanted.
            limiter: How much may be sent.
            clock: The clock.
            max_staleness: Seconds that no stream is to wait longer than, where the budget can hold that.
        """
        self._staleness = staleness
        self._rests = rests
        self._catalog = catalog
        self._watch = watch
        self._limiter = limiter
        self._clock = clock
        self._longest_wait = int(max_staleness // MINUTE)
        self._since_lookup = REQUESTS_PER_LOOKUP
        self._past_first = True
        # Until when neither the catalog nor the past may be asked for (monotonic seconds).
        self._asides_rest_until = 0.0

    def begin(self) -> Round:
        """A round that begins now."""
        return Round(self._clock.monotonic(), live_left=int(self._limiter.allowed) // REQUESTS_PER_LIVE_EVENT)

    def deadline(self, going: Round) -> float:
        """Until when a round that has to wait for the budget may let its next request leave (monotonic seconds)."""
        share = min(1.0, going.sent / self._limiter.allowed)
        return going.started + FIRST_UNTIL - (FIRST_UNTIL - LAST_UNTIL) * share

    def held_up(self, going: Round) -> bool:
        """Whether nothing may be taken now: the whole merchant's answer, on its way, shows which minutes are settled.

        Without it, what was asked for a minute ago would look fresh. And while it is in doubt whether the API works,
        nothing but the answer to that is waited for.
        """
        return self._staleness.pace_maker in going.under_way or (going.in_doubt and going.witness in going.under_way)

    def take(self, going: Round) -> Task | None:
        """What to ask for next, if anything. It is under way until it is given back."""
        task = self._next(going)
        if task is not None:
            going.under_way.add(task)
        return task

    def give_back(self, task: Task, going: Round, *, sent: bool) -> None:
        """What was taken is not under way any more. If it was not sent, it is still its turn."""
        going.under_way.discard(task)
        going.sent_before.discard(task)
        going.sent += sent
        if sent or task == self._staleness.pace_maker:
            # The whole merchant's is next whenever it is due.
            return
        if isinstance(task, Stream):
            # Still the one most worth having; when a minute has settled meanwhile, all is planned anew.
            going.queue.append(task)
        else:
            self._since_lookup = REQUESTS_PER_LOOKUP

    def rest_asides(self, seconds: float) -> None:
        """Ask for nothing of the catalog and the past for so long."""
        until = self._clock.monotonic() + min(seconds, LONGEST_WAIT)
        self._asides_rest_until = max(self._asides_rest_until, until)

    def answered(self, task: Task) -> None:
        """Count towards the turn of the catalog and the past."""
        self._since_lookup = self._since_lookup + 1 if isinstance(task, Stream) else 0

    def plan(self, going: Round, moment: Moment) -> list[Stream]:
        """The streams to ask for in this minute, the first last."""
        candidates = self._candidates(going, moment)
        if not candidates and self._rests.take_back():
            candidates = self._candidates(going, moment)
        streams = self._staleness.streams
        # One place in a minute is the whole merchant's.
        room = max(1, int(self._limiter.allowed) - 1)
        # With a minute in hand, where there is one: some of a round can slip into the next.
        spare = can_hold(streams, room, self._longest_wait - 1)
        chosen = choose(candidates, room, streams, self._longest_wait - 1 if spare else self._longest_wait)
        return sorted(chosen, key=lambda stream: going.failures[stream])[::-1]

    def _candidates(self, going: Round, moment: Moment) -> list[Candidate[Stream]]:
        # Only numbers are looked up for each stream: there may be thousands.
        return [
            Candidate(stream, weight, wait)
            for stream, weight in self._staleness.weights(moment).items()
            if (wait := self._wait_so_far(stream, going, moment))
        ]

    def _next(self, going: Round) -> Task | None:
        """The whole merchant's plays; then the streams as planned, and the catalog and the past when nothing else is
        due, or after they waited long.
        """
        moment = self._moment()
        late = going.waited and moment.monotonic > self.deadline(going)
        if going.over or late:
            return None
        first = going.witness if going.in_doubt else self._pace_maker(going, moment)
        if first is not None:
            return first
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
        if moment.complete != going.planned_for or not going.queue:
            # To plan takes a while, too.
            if moment.monotonic + self._limiter.wait() > self.deadline(going):
                going.over = True
                return None
            going.planned_for = moment.complete
            going.queue = self.plan(going, moment)
        return self._next_planned(going, moment) or self._next_aside(going)

    def _pace_maker(self, going: Round, moment: Moment) -> Stream | None:
        """The whole merchant's plays where they are due; once more when they failed, but not where they always do."""
        stream = self._staleness.pace_maker
        again = going.failures[stream] > 0 and self._rests.pace_maker_fails
        return stream if not again and self._wait_so_far(stream, going, moment) else None

    def _next_planned(self, going: Round, moment: Moment) -> Stream | None:
        while going.queue:
            stream = going.queue.pop()
            # One of its media's streams may just have heard that the media is gone.
            if not self._left_alone(stream, going, moment):
                return stream
        return None

    def _next_aside(self, going: Round) -> Lookup | WarmupRequest | None:
        return self._next_lookup(going) or self._next_past(going)

    def _next_lookup(self, going: Round, *, running_only: bool = False) -> Lookup | None:
        if self._asides_rest(going):
            return None
        return self._catalog.next_lookup(self._clock.now(), going.unanswered, running_only=running_only)

    def _next_past(self, going: Round) -> WarmupRequest | None:
        if self._asides_rest(going):
            return None
        busy = {task.stream for task in going.unanswered if isinstance(task, WarmupRequest)}
        return self._watch.warmup.next(self._clock.now(), self._moment().settled, busy)

    def _asides_rest(self, going: Round) -> bool:
        rest = self._clock.monotonic() < self._asides_rest_until
        return rest or going.streams_suspected or going.failed_asides >= STRIKES

    def _wait_so_far(self, stream: Stream, going: Round, moment: Moment) -> int:
        """A stream's staleness where it is due, at least 1; else 0."""
        if stream in going.under_way or (going.failures and going.failures[stream] >= ATTEMPTS):
            return 0
        if self._left_alone(stream, going, moment):
            return 0
        return self._staleness.due(stream, moment, paced=not self._rests.pace_maker_fails)

    def _left_alone(self, stream: Stream, going: Round, moment: Moment) -> bool:
        if self._rests.rests(stream, moment.monotonic):
            return True
        if not self._rests.failing(stream):
            return False
        failing = sum(isinstance(task, Stream) and self._rests.failing(task) for task in going.under_way)
        return (going.failed_again + failing) * REQUESTS_PER_FAILURE >= self._limiter.allowed

    def _moment(self) -> Moment:
        return self._staleness.moment(self._clock.now(), self._clock.monotonic())
