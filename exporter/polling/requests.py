"""One request: it is sent, and its answer goes to the ledger, the catalog or the drop monitor."""

from collections.abc import Sequence

import structlog

from exporter.api.catalog import Catalog, Lookup
from exporter.api.client import Client
from exporter.api.ranges import SHORTEST_RANGE, RangeFinder
from exporter.clock import Clock
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import WarmupRequest
from exporter.errors import BadRequest, TooLarge
from exporter.model import Stream
from exporter.polling.backoff import Task
from exporter.polling.staleness import Staleness

log = structlog.get_logger("poll")

# The incident of answers with unusable values, one for all streams: seldom only one stream has them.
UNUSABLE = "values that cannot be used"


class Requests:
    """One merchant's requests. May be used by several threads, but not for the same task at once."""

    def __init__(
        self, client: Client, ledger: Ledger, staleness: Staleness, catalog: Catalog, monitor: DropMonitor, clock: Clock
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._staleness = staleness
        self._catalog = catalog
        self._monitor = monitor
        self._clock = clock
        # For each stream of which the API refused a long range, or of which a long range is too large to be read.
        self._ranges: dict[Stream, RangeFinder] = {}
        # The unusable values of the newest answers.
        self._problems: dict[Task, str] = {}

    @property
    def unusable(self) -> str:
        """The unusable values of a stream's newest answer, as one line; "" if none."""
        return next((problem for task, problem in self._problems.copy().items() if isinstance(task, Stream)), "")

    @property
    def unresolved(self) -> set[tuple[str, str]]:
        """Kind and name of the incidents of the newest answers, which are not resolved."""
        return {(UNUSABLE, "")} if self.unusable else set()

    def problem(self, task: Task) -> str:
        """The unusable values of the newest answer, as one line; "" if none."""
        if isinstance(task, Stream):
            return self._problems.get(task, "")
        # Each part of the history is requested only once.
        return self._problems.pop(task, "")

    def ask(self, task: Task) -> bool:
        """Send a request, and enter its answer.

        Returns:
            Whether that is done. False if the API refused a stream's range and half of it comes next: that shows
            neither that the API works nor that it fails.

        Raises:
            BudgetSpent: The request may not leave yet.
            ApiError: No answer that can be used came.
            StateWriteFailed: The answer could not be entered, or the request not noted before it left.
        """
        match task:
            case Lookup():
                self._look_up(task)
            case WarmupRequest():
                self._look_back(task)
            case _:
                return self._refresh(task)
        return True

    def _refresh(self, stream: Stream) -> bool:
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
        self._note(stream, reading.problems)
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

    def _look_up(self, lookup: Lookup) -> None:
        if lookup.live_event_id:
            event = self._client.live_event(lookup.live_event_id)
            self._catalog.enter_live(lookup, event, self._clock.now())
        else:
            media = self._client.media(lookup.media_id)
            self._catalog.enter_media(lookup, media, self._clock.now())

    def _look_back(self, history: WarmupRequest) -> None:
        reading = self._client.aggregations(history.stream, history.asked, hourly=history.hourly)
        self._note(history, reading.problems)
        self._monitor.enter_history(history, reading.rows)
        self._monitor.warmup.done(history)

    def _note(self, task: Task, problems: Sequence[str]) -> None:
        self._problems.pop(task, None)
        if problems:
            self._problems[task] = f"unknown until the API shows what can be used: {task}: {'; '.join(problems)}"
