"""The next request of a round: the planned streams, and between them the catalog, the warm-up and live events.

It sends nothing and waits for nothing.
"""

from collections.abc import Iterable

from exporter.api.budget import LONGEST_WAIT
from exporter.api.catalog import Lookup
from exporter.drops.warmup import WarmupRequest
from exporter.model import MINUTE, Stream
from exporter.planning.capacity import BACKGROUND_SHARE, EARLY_MINUTES, LEARNING_SHARE
from exporter.planning.index import Candidate, can_hold, choose
from exporter.polling.backoff import SUSPICION_LIMIT, Backoff, Task
from exporter.polling.parts import MerchantParts
from exporter.polling.round import Plan, Round
from exporter.polling.sources import Sources
from exporter.polling.staleness import Moment, Staleness

# A stream that failed and is not in backoff is requested once more in a round, after all others.
ATTEMPTS = 2

# So many requests for streams between two for the catalog or the warm-up, if the budget is short; and so many while
# media cannot be judged.
REQUESTS_PER_LOOKUP = BACKGROUND_SHARE - 1
REQUESTS_WHILE_LEARNING = LEARNING_SHARE - 1

# When many streams are due again that failed before, so many failures in a round's requests are enough.
REQUESTS_PER_FAILURE = 10

# A round that has to wait for the budget lets its first request leave until so many seconds after its start, and its
# last until so many. A request's place is free again a minute after its answer, so without an end the whole round would
# be a little later each time, until it is a minute late. What is not sent by then, the least worthy, leaves its places
# free for the beginning of the next round. So a round moves back to its start by a few requests at a time.
FIRST_UNTIL, LAST_UNTIL = 50.0, 40.0

# The first requests of a round, worth most, should leave within so many seconds of its start. As many as left later, as
# the places of the budget were not free yet, so many places are left free at the end of the next round: from then on,
# these are free when a round begins.
# Those are the whole merchant's plays, and what may have begun to drop: so many with a budget of 45, fewer with less.
HEAD, PROMPT, REQUESTS_PER_HEAD = 3, 5.0, 12

# Of a round's requests, live events that run have at most one in so many, before all but the whole merchant's plays and
# media that may have begun to drop.
REQUESTS_PER_LIVE_EVENT = 4

# Of a round's requests, media that may have begun to drop have at most one in so many before their turn: a request
# confirms a drop a few minutes earlier.
REQUESTS_PER_SUSPECT = 5


class RequestQueue:
    """The order of one merchant's requests. For one thread at a time."""

    def __init__(self, parts: MerchantParts, sources: Sources, staleness: Staleness, backoff: Backoff) -> None:
        """Start without any request.

        Args:
            parts: The budget, the clock and the settings of the merchant.
            sources: The lookups and the warm-up requests that are due.
            staleness: The staleness and weight of each stream.
            backoff: The streams in backoff.
        """
        self._sources = sources
        self._staleness = staleness
        self._backoff = backoff
        self._budget = parts.budget
        self._clock = parts.clock
        self._monitor = parts.monitor
        self._parts = parts
        self._since_lookup = REQUESTS_PER_LOOKUP
        self._warmup_first = True
        # No lookups and no warm-up before this time (monotonic seconds).
        self._background_paused_until = 0.0
        # How many of the first requests of the newest round left late.
        self._late = 0
        # Until then lookups and warm-up come first (monotonic seconds); None before the first round.
        self._early_until: float | None = None
        # Whether no stream was stale at the first round.
        self._fresh = False

    def begin(self) -> Round:
        """A round that begins now."""
        if self._early_until is None:
            self._fresh = self._staleness.fresh(self._moment(), EARLY_MINUTES)
            self._early_until = self._clock.monotonic() + (EARLY_MINUTES * MINUTE if self._fresh else 0.0)
            if not self._fresh:
                # The backlog comes first.
                self._since_lookup = 0
        spare, self._late = min(self._late, int(self._budget.allowed) // 2), 0
        live_left = int(self._budget.allowed) // REQUESTS_PER_LIVE_EVENT
        return Round(self._clock.monotonic(), live_left=live_left, spare=spare)

    def deadline(self, current: Round) -> float:
        """Until when a round that has to wait for the budget may let its next request leave (monotonic seconds)."""
        share = min(1.0, current.sent / self._budget.allowed)
        return current.started + FIRST_UNTIL - (FIRST_UNTIL - LAST_UNTIL) * share

    def blocked(self, current: Round) -> bool:
        """Whether nothing may be taken now: the whole merchant's answer, on its way, shows which minutes are settled.

        Without it, a minute-old answer would look fresh. While it is in doubt whether the API works, only the answer of
        the witness matters.
        """
        return self._staleness.pace_maker in current.under_way or (
            current.evidence.in_doubt and current.evidence.witness in current.under_way
        )

    def take(self, current: Round) -> Task | None:
        """The next request, None if there is none. It is under way until it is given back."""
        task = self._next(current)
        if task is not None:
            current.under_way[task] = self._clock.monotonic()
        return task

    def give_back(self, task: Task, current: Round, *, sent: bool) -> None:
        """A request is not under way any more. If it was not sent, it comes next again."""
        taken = current.under_way.pop(task)
        current.evidence.sent_before.discard(task)
        current.sent += sent
        head = max(1, min(HEAD, int(self._budget.allowed) // REQUESTS_PER_HEAD))
        # An answer that takes long is no late request.
        late = taken > current.started + PROMPT
        if sent and late and current.sent <= head and current.waited:
            self._late += 1
        if sent or task == self._staleness.pace_maker:
            # The whole merchant's is next whenever it is due.
            return
        if isinstance(task, Stream):
            # It is still worth most. If a minute has settled meanwhile, the next call plans again.
            current.plan.streams.append(task)
        else:
            self._since_lookup = REQUESTS_PER_LOOKUP

    def pause_background(self, seconds: float) -> None:
        """Request nothing of the catalog and the warm-up for so many seconds."""
        until = self._clock.monotonic() + min(seconds, LONGEST_WAIT)
        self._background_paused_until = max(self._background_paused_until, until)

    def answered(self, task: Task) -> None:
        """Count the requests since the last one for the catalog or the warm-up."""
        if isinstance(task, Stream):
            self._since_lookup += 1
            return
        self._since_lookup = 0
        # Alternately, or running live events could take all of it.
        self._warmup_first = not isinstance(task, WarmupRequest)

    def plan(self, current: Round, moment: Moment) -> Plan:
        """What to request in this minute."""
        candidates = self._candidates(current, moment)
        if not candidates and self._backoff.retry_deferred():
            candidates = self._candidates(current, moment)
        streams = self._staleness.streams
        # One place in a minute is the whole merchant's.
        room = max(1, int(self._budget.allowed) - 1)
        # With a minute in hand, where there is one: some of a round can slip into the next.
        longest = int(self._parts.poll.max_staleness // MINUTE)
        chosen = choose(candidates, room, streams, longest - can_hold(streams, room, longest - 1))
        suspects = self._suspects(candidates)[: max(1, room // REQUESTS_PER_SUSPECT)]
        urgent = frozenset(suspects)
        chosen = [*suspects, *(stream for stream in chosen if stream not in urgent)][:room]
        return Plan(moment.complete, sorted(chosen, key=lambda stream: current.failures[stream])[::-1], urgent)

    def _suspects(self, candidates: Iterable[Candidate[Stream]]) -> list[Stream]:
        """The plays of media that may have begun to drop: first drops that are shown, then those with most plays."""
        suspects = self._monitor.suspects
        if not suspects:
            return []
        found = [each for each in candidates if each.key.media_id in suspects and each.key.counts_plays]
        return [each.key for each in sorted(found, key=lambda each: (not suspects[each.key.media_id], -each.weight))]

    def _candidates(self, current: Round, moment: Moment) -> list[Candidate[Stream]]:
        # Only numbers are looked up for each stream: there may be thousands.
        return [
            Candidate(stream, weight, wait)
            for stream, weight in self._staleness.weights(moment).items()
            if (wait := self._wait_so_far(stream, current, moment))
        ]

    def _next(self, current: Round) -> Task | None:
        """The whole merchant's plays, media that may have begun to drop, then the other streams; lookups and warm-up
        last, or after a long wait.
        """
        moment = self._moment()
        late = current.waited and moment.monotonic > self.deadline(current)
        full = current.sent + len(current.under_way) >= self._budget.allowed - current.spare
        if current.ended or late or (current.spare and full):
            return None
        first = current.evidence.witness if current.evidence.in_doubt else self._pace_maker(current, moment)
        if first is not None:
            return first
        if current.plan.outdated(moment.complete):
            # To plan takes a while, too.
            if moment.monotonic + self._budget.wait() > self.deadline(current):
                current.ended = True
                return None
            current.plan = self.plan(current, moment)
        if current.plan.is_urgent:
            return self._next_planned(current, moment)
        return (
            self._running_event(current)
            or self._waited_for(current, moment)
            or self._next_planned(current, moment)
            or self._next_background(current)
        )

    def _waited_for(self, current: Round, moment: Moment) -> Task | None:
        """A lookup or a part of the history after a long wait."""
        pause = REQUESTS_WHILE_LEARNING if self._learning() else REQUESTS_PER_LOOKUP
        if self._since_lookup < pause and not self._early(moment):
            return None
        # This search is slow, so it comes again only after as many requests, even if it found nothing.
        self._since_lookup = 0
        return self._next_background(current, warmup_first=self._warmup_first)

    def _learning(self) -> bool:
        """Whether media cannot be judged yet, and the budget is short. A backlog at the start comes first."""
        unjudged = self._sources.warmup.unjudged if self._fresh else 0
        return unjudged > 0 and unjudged + self._staleness.streams > self._budget.allowed

    def _early(self, moment: Moment) -> bool:
        """Whether lookups and warm-up come before the streams, of which none is stale yet.

        If all of it fits into the budget of a minute, the streams come first.
        """
        if self._early_until is None or moment.monotonic >= self._early_until:
            return False
        left = self._sources.warmup.left
        return left > 0 and left + self._staleness.streams > self._budget.allowed

    def _pace_maker(self, current: Round, moment: Moment) -> Stream | None:
        """The whole merchant's plays where they are due; once more when they failed, but not where they always do."""
        stream = self._staleness.pace_maker
        again = current.failures[stream] > 0 and self._backoff.pace_maker_fails
        return stream if not again and self._wait_so_far(stream, current, moment) else None

    def _next_planned(self, current: Round, moment: Moment) -> Stream | None:
        while current.plan.streams:
            stream = current.plan.streams.pop()
            # Another stream of the media may just have got a 404.
            if not self._in_backoff(stream, current, moment):
                return stream
        return None

    def _running_event(self, current: Round) -> Lookup | None:
        if current.live_left <= 0:
            return None
        paused = self._background_paused(current)
        event = None if paused else self._sources.lookups.next_running(current.unanswered)
        current.live_left = 0 if event is None else current.live_left - 1
        return event

    def _next_background(self, current: Round, *, warmup_first: bool = False) -> Task | None:
        if self._background_paused(current):
            return None
        check = self._sources.zone.next(current.unanswered)
        if check is not None:
            return check
        lookups, warmup = self._sources.lookups, self._sources.warmup
        if warmup_first:
            return warmup.next(current.unanswered) or lookups.next(current.unanswered)
        return lookups.next(current.unanswered) or warmup.next(current.unanswered)

    def _background_paused(self, current: Round) -> bool:
        paused = self._clock.monotonic() < self._background_paused_until
        return paused or current.evidence.streams_suspected or current.failed_background >= SUSPICION_LIMIT

    def _wait_so_far(self, stream: Stream, current: Round, moment: Moment) -> int:
        """A stream's staleness where it is due, at least 1; else 0."""
        if stream in current.under_way or (current.failures and current.failures[stream] >= ATTEMPTS):
            return 0
        if self._in_backoff(stream, current, moment):
            return 0
        return self._staleness.due(stream, moment, paced=not self._backoff.pace_maker_fails)

    def _in_backoff(self, stream: Stream, current: Round, moment: Moment) -> bool:
        if self._backoff.in_backoff(stream, moment.monotonic):
            return True
        if not self._backoff.failing(stream):
            return False
        failing = sum(isinstance(task, Stream) and self._backoff.failing(task) for task in current.under_way)
        return (current.failed_again + failing) * REQUESTS_PER_FAILURE >= self._budget.allowed

    def _moment(self) -> Moment:
        return self._staleness.moment(self._clock.now(), self._clock.monotonic())
