"""The sources of a round's requests: the streams, the catalog lookups, the warm-up and the time zone's check.

Each source sends its own tasks, and enters the answers in the ledger, the catalog or the drop monitor.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

import structlog

from exporter.api.catalog import Lookup
from exporter.api.ranges import SHORTEST_RANGE, RangeFinder, half
from exporter.api.zone_check import ZoneCheck, ZoneFinding, ZoneWindows, judge_zone, look_at, zone_error
from exporter.drops.warmup import Pace, WarmupRequest
from exporter.errors import BadRequest, NotFound, Removed, TooLarge
from exporter.model import Stream
from exporter.planning.capacity import learning_rate
from exporter.polling.backoff import Task
from exporter.polling.parts import MerchantParts
from exporter.polling.staleness import Staleness

log = structlog.get_logger("poll")

# The incident of answers with unusable values, one for all streams: seldom only one stream has them.
UNUSABLE = "values that cannot be used"

# Seconds until the time zone is checked again: after it was found to fit, and otherwise; and after there was nothing to
# see, or no answer.
ZONE_FITS_EVERY, ZONE_EVERY, ZONE_AGAIN = 3600.0, 300.0, 600.0

T = TypeVar("T", Stream, Lookup, WarmupRequest, ZoneCheck)


class TaskSource(ABC, Generic[T]):
    """Tasks of one kind. May be used by several threads, but not for the same task at once."""

    def __init__(self, parts: MerchantParts) -> None:
        self._parts = parts

    @abstractmethod
    def ask(self, task: T) -> bool:
        """Send a request, and enter its answer.

        Returns:
            Whether that is done. False if the API refused a stream's range and half of it comes next: that shows
            neither that the API works nor that it fails.

        Raises:
            BudgetSpent: The request may not leave yet.
            ApiError: No answer that can be used came.
            StateWriteFailed: The answer could not be entered, or the request not noted before it left.
        """

    def problem(self, _task: T) -> str:
        """The unusable values of the newest answer, as one line; "" if none."""
        return ""

    def shorten(self, _task: T) -> bool:
        """Request a shorter range after a 400 from an API that works; False if the range cannot be the reason."""
        return False

    def failed(self, task: T) -> None:
        """Request a task that failed later again."""


class StreamSource(TaskSource[Stream]):
    """The streams of one merchant. The queue plans them, and the backoff decides when a failed one comes again.

    `ask` shortens a refused range itself, so `shorten` does nothing.
    """

    def __init__(self, parts: MerchantParts, staleness: Staleness) -> None:
        super().__init__(parts)
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

    def forget_removed(self) -> None:
        """Forget the streams that the configuration does not have any more."""
        for known in (self._ranges, self._problems):
            for stream in [each for each in known.copy() if each not in self._staleness]:
                known.pop(stream, None)

    def ask(self, task: Stream) -> bool:
        """See `TaskSource`."""
        stream = task
        now = self._parts.clock.now()
        limit = self._ranges.get(stream)
        longest = None if limit is None else limit.length
        asked = self._parts.ledger.to_ask(stream, now, longest)
        try:
            reading = self._parts.client.aggregations(stream, asked)
        except (BadRequest, TooLarge) as error:
            if not self._shorten(stream, len(asked), error):
                raise
            return False
        if asked.first > self._parts.ledger.to_ask(stream, self._parts.clock.now(), longest).first:
            # The first answers have shown that the clock was ahead: the range left out what is to be counted.
            return False
        rows = reading.rows
        self._problems.pop(stream, None)
        if reading.problems:
            self._problems[stream] = _unusable(stream, reading.problems)
        self._parts.ledger.enter(stream, asked, rows, self._parts.clock.now())
        seen, held = self._parts.ledger.seen(stream), self._parts.ledger.held(stream)
        self._parts.monitor.enter(stream, asked, rows, seen, self._parts.clock.now(), held)
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
            self._parts.ledger.believe_range(stream.merchant_id, length, now)
            log.info("the API refuses longer ranges; requesting shorter ones", stream=str(stream), minutes=length)
        del self._ranges[stream]


class LookupSource(TaskSource[Lookup]):
    """The catalog lookups of one merchant. They have no range, and an unusable answer is an error of the client."""

    def __init__(self, parts: MerchantParts, staleness: Staleness) -> None:
        super().__init__(parts)
        self._staleness = staleness

    def next(self, unanswered: Collection[Task]) -> Lookup | None:
        """The next lookup, None if none is due.

        Args:
            unanswered: Tasks that wait for an answer, which are not requested again.
        """
        now, catalog = self._parts.clock.now(), self._parts.catalog
        if not catalog.unknown:
            return catalog.next_lookup(now, unanswered)
        plays = self._staleness.plays(self._staleness.moment(now, self._parts.clock.monotonic()))
        return catalog.next_lookup(now, unanswered, plays)

    def next_running(self, unanswered: Collection[Task]) -> Lookup | None:
        """The next lookup of a running live event, None if none is due."""
        return self._parts.catalog.next_lookup(self._parts.clock.now(), unanswered, running_only=True)

    def ask(self, task: Lookup) -> bool:
        """See `TaskSource`."""
        if task.live_event_id:
            event = self._parts.client.live_event(task.live_event_id)
            self._parts.catalog.enter_live(task, event, self._parts.clock.now())
        elif task.ref_id:
            return self._ask_by_ref(task)
        else:
            media = self._parts.client.media(task.media_id)
            self._parts.catalog.enter_media(task, media, self._parts.clock.now())
        return True

    def _ask_by_ref(self, task: Lookup) -> bool:
        """Look a media up by its reference id. That the catalog does not have it is no failure: it may come later."""
        catalog, merchant_id = self._parts.catalog, self._parts.settings.id
        try:
            media = self._parts.client.media_by_ref(task.ref_id, task.media_id)
        except NotFound:
            if catalog.enter_missing(task, self._parts.clock.now()):
                log.warning(
                    "no media with this ref_id in the catalog yet; asking again until there is one",
                    merchant=merchant_id,
                    ref_id=task.ref_id,
                )
            # A proxy without its API answers 404, too.
            return False
        if catalog.enter_media(task, media, self._parts.clock.now()):
            log.info(
                "found the media of a ref_id",
                merchant=merchant_id,
                ref_id=task.ref_id,
                media=media.media_id,
                name=media.name,
            )
        return True

    def failed(self, task: Lookup) -> None:
        """See `TaskSource`."""
        self._parts.catalog.failed(task, self._parts.clock.now())


class WarmupSource(TaskSource[WarmupRequest]):
    """The history of one merchant's plays that the drop monitor is missing."""

    def __init__(self, parts: MerchantParts, staleness: Staleness) -> None:
        super().__init__(parts)
        self._staleness = staleness
        self._pace = Pace()
        # The unusable values of answers that are not reported yet.
        self._problems: dict[WarmupRequest, str] = {}

    def next(self, unanswered: Collection[Task]) -> WarmupRequest | None:
        """The next part of the history to request, None if none is due; argument as for `LookupSource.next`."""
        now = self._parts.clock.now()
        busy = {task.stream for task in unanswered if isinstance(task, WarmupRequest)}
        moment = self._staleness.moment(now, self._parts.clock.monotonic())
        warmup = self._parts.monitor.warmup
        return warmup.next(now, moment.settled, busy, self._staleness.plays(moment)) if self.left else None

    @property
    def left(self) -> int:
        """How many requests the missing history takes."""
        return self._parts.monitor.warmup.left

    @property
    def unjudged(self) -> int:
        """How many requests it takes until all media can be judged: their first lookups, and their plays by minute."""
        return self._parts.monitor.warmup.minutes_left + self._parts.catalog.unknown

    def remaining(self) -> float | None:
        """Seconds until all media can be judged, 0 if nothing is missing; None if that is not known."""
        planned = learning_rate(self._staleness.streams, self._parts.budget.allowed)
        return self._pace.remaining(self._parts.clock.monotonic(), self.unjudged, planned)

    def ask(self, task: WarmupRequest) -> bool:
        """See `TaskSource`."""
        reading = self._parts.client.aggregations(task.stream, task.asked, hourly=task.hourly)
        if reading.problems:
            self._problems[task] = _unusable(task, reading.problems)
        self._parts.monitor.enter_history(task, reading.rows, self._parts.clock.now())
        self._parts.monitor.warmup.done(task)
        self._pace.note(self._parts.clock.monotonic(), self.unjudged)
        return True

    def problem(self, task: WarmupRequest) -> str:
        """See `TaskSource`. Each part of the history is requested only once, so this forgets it."""
        return self._problems.pop(task, "")

    def shorten(self, task: WarmupRequest) -> bool:
        """See `TaskSource`."""
        self._parts.monitor.warmup.shorten(task, half(len(task.asked), task.shortest))
        return True

    def failed(self, task: WarmupRequest) -> None:
        """See `TaskSource`."""
        self._parts.monitor.warmup.failed(task, self._parts.clock.now())


class ZoneSource(TaskSource[ZoneCheck]):
    """The check of the time zone. A defect or a refusal of it concerns nothing else.

    Attributes:
        finding: What is known; replaced as a whole, never changed.
    """

    def __init__(self, parts: MerchantParts, stream: Stream) -> None:
        super().__init__(parts)
        self.finding = ZoneFinding()
        self._stream = stream
        # The zone that the finding is about.
        self._zone = parts.zone
        self._windows = ZoneWindows()
        self._due = float("-inf")

    def forget_removed(self) -> None:
        """Forget what is known of another time zone than that of the configuration."""
        if self._zone != self._parts.zone:
            self._zone, self.finding = self._parts.zone, ZoneFinding()
            self._due = float("-inf")

    def next(self, unanswered: Collection[Task]) -> ZoneCheck | None:
        """The check if it is due, else None; argument as for `LookupSource.next`."""
        now = self._parts.clock.monotonic()
        if now < self._due or any(isinstance(task, ZoneCheck) for task in unanswered):
            return None
        return self._windows.next(self._stream, self._parts.clock.now())

    def ask(self, task: ZoneCheck) -> bool:
        """See `TaskSource`."""
        try:
            reading = self._parts.client.aggregations(task.stream, task.asked)
        except TooLarge:
            return not self.shorten(task)
        if self._zone != self._parts.zone:
            raise Removed("a check of another time zone")
        now, before = self._parts.clock.now(), self.finding
        self.finding = judge_zone(before, look_at(reading.rows, now), self._zone)
        if self._windows.answered():
            self._due = self._parts.clock.monotonic() + self._pause()
        if self.finding.wrong and self.finding.offset != before.offset:
            log.warning(
                zone_error(self.finding.offset, now, self._zone),
                merchant=task.stream.merchant_id,
                timezone=str(self._zone),
                offset_seconds=self.finding.offset,
            )
        elif before.wrong and not self.finding.wrong:
            log.info("api.timezone fits now", merchant=task.stream.merchant_id, timezone=str(self._zone))
        return True

    def shorten(self, task: ZoneCheck) -> bool:
        """See `TaskSource`."""
        self._windows.refused(task)
        return True

    def failed(self, _task: ZoneCheck) -> None:
        """See `TaskSource`."""
        self._due = self._parts.clock.monotonic() + ZONE_AGAIN

    def _pause(self) -> float:
        if self.finding.offset == 0.0:
            return ZONE_FITS_EVERY
        return ZONE_EVERY if self.finding.wrong or self.finding.suspect else ZONE_AGAIN


class Sources:
    """All task sources of one merchant.

    Attributes:
        streams: The streams.
        lookups: The catalog lookups.
        warmup: The missing history.
        zone: The check of the time zone.
    """

    def __init__(self, parts: MerchantParts, staleness: Staleness) -> None:
        self.streams = StreamSource(parts, staleness)
        self.lookups = LookupSource(parts, staleness)
        self.warmup = WarmupSource(parts, staleness)
        self.zone = ZoneSource(parts, staleness.pace_maker)

    def forget_removed(self) -> None:
        """Forget what the configuration does not have any more."""
        self.streams.forget_removed()
        self.zone.forget_removed()

    def of(self, task: Task) -> TaskSource[Any]:
        """The source of a task."""
        match task:
            case Stream():
                return self.streams
            case Lookup():
                return self.lookups
            case WarmupRequest():
                return self.warmup
            case ZoneCheck():
                return self.zone


def _unusable(task: Task, problems: Sequence[str]) -> str:
    return f"unknown until the API shows what can be used: {task}: {'; '.join(problems)}"
