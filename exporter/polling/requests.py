"""One request from the asking to the entering of its answer, wherever that belongs."""

from collections.abc import Sequence

import structlog

from exporter.api.catalog import Catalog, Lookup
from exporter.api.client import Client
from exporter.api.ranges import SHORTEST_DENSE_RANGE, SHORTEST_RANGE
from exporter.clock import Clock
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import WarmupRequest
from exporter.errors import BadRequest, TooLarge
from exporter.model import Stream
from exporter.polling.backoff import Task
from exporter.polling.staleness import Staleness

log = structlog.get_logger("poll")

# The fault of answers that hold what cannot be used, one for all streams: it is seldom in one of them only.
UNUSABLE = "values that cannot be used"


class Requests:
    """One merchant's requests. May be used by several threads, but not for the same task at once."""

    def __init__(
        self, client: Client, ledger: Ledger, staleness: Staleness, catalog: Catalog, watch: DropMonitor, clock: Clock
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._staleness = staleness
        self._catalog = catalog
        self._watch = watch
        self._clock = clock
        # Lengths to try where the API refused a longer range.
        self._trials: dict[Stream, int] = {}
        # Streams of which it refused the shortest, too: so the length was not what it refused.
        self._refused: set[Stream] = set()
        # Streams of which a longer range holds too much to be read.
        self._dense: set[Stream] = set()
        # What in the newest answers could not be used.
        self._problems: dict[Task, str] = {}

    @property
    def unusable(self) -> str:
        """What in the newest answer of a stream cannot be used, as one line; "" where there is nothing."""
        return next((problem for task, problem in self._problems.copy().items() if isinstance(task, Stream)), "")

    @property
    def faults(self) -> set[tuple[str, str]]:
        """Kind and name of the faults that have not ended: those of the newest answers of the streams."""
        return {(UNUSABLE, "")} if self.unusable else set()

    def problem(self, task: Task) -> str:
        """What in the newest answer could not be used, as one line; "" where there is nothing."""
        if isinstance(task, Stream):
            return self._problems.get(task, "")
        # The past is asked for once only.
        return self._problems.pop(task, "")

    def ask(self, task: Task) -> bool:
        """Ask once, and enter what is answered.

        Returns:
            Whether that is done. It is not where the API refused a stream's range that half of it may do for: that
            tells neither that it works nor that it fails.

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
        # Asked for in one request instead of by halves, for it would be refused again.
        trial = SHORTEST_RANGE if stream in self._refused else self._trials.get(stream)
        asked = self._ledger.to_ask(stream, now, trial)
        try:
            reading = self._client.aggregations(stream, asked)
        except BadRequest:
            if stream.target.by_day or len(asked) <= SHORTEST_RANGE:
                if self._trials.pop(stream, None) is not None:
                    self._refused.add(stream)
                raise
            # Perhaps the range was too long. What works is found by halves, and remembered.
            self._trials[stream] = max(SHORTEST_RANGE, len(asked) // 2)
            return False
        except TooLarge:
            if stream.target.by_day or len(asked) <= SHORTEST_DENSE_RANGE:
                raise
            # That says nothing of other streams, so it is remembered of this one alone.
            self._dense.add(stream)
            self._trials[stream] = max(SHORTEST_DENSE_RANGE, len(asked) // 2)
            return False
        if asked.first > self._ledger.to_ask(stream, self._clock.now(), trial).first:
            # The first answers have shown that the clock was ahead: the range left out what is to be counted.
            return False
        rows = reading.rows
        self._note(stream, reading.problems)
        self._ledger.enter(stream, asked, rows, self._clock.now())
        seen, held = self._ledger.seen(stream), self._ledger.held(stream)
        self._watch.enter(stream, asked, rows, seen, self._clock.now(), held)
        cut = trial is not None and len(asked) == trial
        if not (cut and stream in self._dense):
            if trial is not None and cut and stream not in self._refused:
                self._ledger.believe_range(stream.merchant_id, trial, now)
                log.info("the API refuses longer ranges; asking for shorter ones", stream=str(stream), minutes=trial)
            self._trials.pop(stream, None)
            self._dense.discard(stream)
        self._refused.discard(stream)
        self._staleness.entered(stream, asked, now)
        return True

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
        self._watch.enter_history(history, reading.rows)

    def _note(self, task: Task, problems: Sequence[str]) -> None:
        self._problems.pop(task, None)
        if problems:
            self._problems[task] = f"unknown until the API shows what can be used: {task}: {'; '.join(problems)}"
