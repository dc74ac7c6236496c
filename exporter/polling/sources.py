"""The sources of a round's requests: the streams, the catalog lookups and the warm-up.

Each source sends its own tasks, and enters the answers in the ledger, the catalog or the drop monitor.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from exporter.api.catalog import Lookup
from exporter.api.ranges import SHORTEST_RANGE, RangeFinder, half
from exporter.drops.warmup import WarmupRequest
from exporter.errors import BadRequest, TooLarge
from exporter.model import Stream
from exporter.polling.backoff import Task
from exporter.polling.parts import MerchantParts
from exporter.polling.staleness import Staleness

log = structlog.get_logger("poll")

# The incident of answers with unusable values, one for all streams: seldom only one stream has them.
UNUSABLE = "values that cannot be used"

T_contra = TypeVar("T_contra", contravariant=True)
BackgroundTask = TypeVar("BackgroundTask", Lookup, WarmupRequest)


class TaskSource(Protocol[T_contra]):
    """Tasks of one kind. May be used by several threads, but not for the same task at once."""

    def ask(self, task: T_contra) -> bool:
        """Send a request, and enter its answer.

        Returns:
            Whether that is done. False if the API refused a stream's range and half of it comes next: that shows
            neither that the API works nor that it fails.

        Raises:
            BudgetSpent: The request may not leave yet.
            ApiError: No answer that can be used came.
            StateWriteFailed: The answer could not be entered, or the request not noted before it left.
        """

    def problem(self, task: T_contra) -> str:
        """The unusable values of the newest answer, as one line; "" if none."""

    def shorten(self, task: T_contra) -> bool:
        """Request a shorter range after a 400 from an API that works; False if the range cannot be the reason."""

    def failed(self, task: T_contra) -> None:
        """Request a task that failed later again."""


class BackgroundSource(TaskSource[BackgroundTask], Protocol[BackgroundTask]):
    """Tasks of low priority, which decide by themselves when they are due."""

    def next(self, unanswered: Collection[Task]) -> BackgroundTask | None:
        """The next task, None if none is due.

        Args:
            unanswered: Tasks that wait for an answer, which are not requested again.
        """


class StreamSource:
    """The streams of one merchant. The queue plans them, and the backoff decides when a failed one comes again."""

    def __init__(self, parts: MerchantParts, staleness: Staleness) -> None:
        self._client = parts.client
        self._ledger = parts.ledger
        self._monitor = parts.monitor
        self._clock = parts.clock
        self._staleness = staleness
        # For each stream of which the API refused a long range, or of which a long range is too large to be read.
        self._ranges: dict[Stream, RangeFinder] = {}
        # The unusable values of the newest answers.
        self._problems: dict[Stream, str] = {}

    @property
    def unusable(self) -> str:
        """The unusable values of one stream's newest answer, as one line; "" if none."""
        return next(iter(self._problems.copy().values()), "")

    @property
    def unresolved(self) -> set[tuple[str, str]]:
        """Kind and name of the incidents of the newest answers, which are not resolved."""
        return {(UNUSABLE, "")} if self.unusable else set()

    def problem(self, task: Stream) -> str:
        """See `TaskSource`."""
        return self._problems.get(task, "")

    def shorten(self, _task: Stream) -> bool:
        """No: `ask` has shortened the range already, if that can help."""
        return False

    def failed(self, task: Stream) -> None:
        """Nothing: the backoff keeps the time of the next request."""

    def ask(self, task: Stream) -> bool:
        """See `TaskSource`."""
        stream = task
        now = self._clock.now()
        limit = self._ranges.get(stream)
        longest = None if limit is None else limit.length
        asked = self._ledger.to_ask(stream, now, longest)
        try:
            reading = self._client.aggregations(stream, asked)
        except (BadRequest, TooLarge) as error:
            if not self._shorten(stream, len(asked), error):
                raise
            return False
        if asked.first > self._ledger.to_ask(stream, self._clock.now(), longest).first:
            # The first answers have shown that the clock was ahead: the range left out what is to be counted.
            return False
        rows = reading.rows
        self._problems.pop(stream, None)
        if reading.problems:
            self._problems[stream] = _unusable(stream, reading.problems)
        self._ledger.enter(stream, asked, rows, self._clock.now())
        seen, held = self._ledger.seen(stream), self._ledger.held(stream)
        self._monitor.enter(stream, asked, rows, seen, self._clock.now(), held)
        self._note_range(stream, len(asked), now)
        self._staleness.entered(stream, asked, now)
        return True

    def _shorten(self, stream: Stream, length: int, error: BadRequest | TooLarge) -> bool:
        """Request half of a range next; False if a shorter one would not help."""
        if stream.target.by_day:
            return False
        limit = self._ranges.get(stream) or RangeFinder(length)
        if limit.shorten(length, error):
            self._ranges[stream] = limit
            return True
        if limit.exhausted:
            # The next requests have the shortest range, for the API would refuse longer ones again.
            limit.length = max(limit.length, SHORTEST_RANGE)
        return False

    def _note_range(self, stream: Stream, length: int, now: float) -> None:
        """Remember a shortened range that was answered."""
        limit = self._ranges.get(stream)
        if limit is None:
            return
        exhausted, limit.exhausted = limit.exhausted, False
        cut = length == limit.length
        # Too much to be read in a range says nothing of other streams.
        if cut and limit.dense:
            return
        if cut and not exhausted:
            self._ledger.believe_range(stream.merchant_id, length, now)
            log.info("the API refuses longer ranges; requesting shorter ones", stream=str(stream), minutes=length)
        del self._ranges[stream]


class LookupSource:
    """The catalog lookups of one merchant."""

    def __init__(self, parts: MerchantParts) -> None:
        self._client = parts.client
        self._catalog = parts.catalog
        self._clock = parts.clock

    def next(self, unanswered: Collection[Task]) -> Lookup | None:
        """See `BackgroundSource`."""
        return self._catalog.next_lookup(self._clock.now(), unanswered)

    def next_running(self, unanswered: Collection[Task]) -> Lookup | None:
        """The next lookup of a running live event, None if none is due."""
        return self._catalog.next_lookup(self._clock.now(), unanswered, running_only=True)

    def ask(self, task: Lookup) -> bool:
        """See `TaskSource`."""
        if task.live_event_id:
            event = self._client.live_event(task.live_event_id)
            self._catalog.enter_live(task, event, self._clock.now())
        else:
            media = self._client.media(task.media_id)
            self._catalog.enter_media(task, media, self._clock.now())
        return True

    def problem(self, _task: Lookup) -> str:
        """None: the client raises an error instead."""
        return ""

    def shorten(self, _task: Lookup) -> bool:
        """No: a lookup has no range."""
        return False

    def failed(self, task: Lookup) -> None:
        """See `TaskSource`."""
        self._catalog.failed(task, self._clock.now())


class WarmupSource:
    """The history of one merchant's plays that the drop monitor is missing."""

    def __init__(self, parts: MerchantParts) -> None:
        self._merchant_id = parts.settings.id
        self._client = parts.client
        self._ledger = parts.ledger
        self._monitor = parts.monitor
        self._clock = parts.clock
        # The unusable values of answers that are not reported yet.
        self._problems: dict[WarmupRequest, str] = {}

    def next(self, unanswered: Collection[Task]) -> WarmupRequest | None:
        """See `BackgroundSource`."""
        now = self._clock.now()
        busy = {task.stream for task in unanswered if isinstance(task, WarmupRequest)}
        return self._monitor.warmup.next(now, self._ledger.settled(self._merchant_id, now), busy)

    def ask(self, task: WarmupRequest) -> bool:
        """See `TaskSource`."""
        reading = self._client.aggregations(task.stream, task.asked, hourly=task.hourly)
        if reading.problems:
            self._problems[task] = _unusable(task, reading.problems)
        self._monitor.enter_history(task, reading.rows)
        self._monitor.warmup.done(task)
        return True

    def problem(self, task: WarmupRequest) -> str:
        """See `TaskSource`. Each part of the history is requested only once, so this forgets it."""
        return self._problems.pop(task, "")

    def shorten(self, task: WarmupRequest) -> bool:
        """See `TaskSource`."""
        self._monitor.warmup.shorten(task, half(len(task.asked), task.shortest))
        return True

    def failed(self, task: WarmupRequest) -> None:
        """See `TaskSource`."""
        self._monitor.warmup.failed(task, self._clock.now())


class Sources:
    """All task sources of one merchant.

    Attributes:
        streams: The streams.
        lookups: The catalog lookups.
        warmup: The missing history.
    """

    def __init__(self, parts: MerchantParts, staleness: Staleness) -> None:
        self.streams = StreamSource(parts, staleness)
        self.lookups = LookupSource(parts)
        self.warmup = WarmupSource(parts)

    def of(self, task: Task) -> TaskSource[Any]:
        """The source of a task."""
        match task:
            case Stream():
                return self.streams
            case Lookup():
                return self.lookups
            case WarmupRequest():
                return self.warmup


def _unusable(task: Task, problems: Sequence[str]) -> str:
    return f"unknown until the API shows what can be used: {task}: {'; '.join(problems)}"
