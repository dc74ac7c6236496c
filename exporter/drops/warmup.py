"""The warm-up: which history to request, so that the drop detector knows a media's usual week from the first day.

A few requests bring three weeks by the hour. The last day by the minute shows how much the plays vary. The minutes
of all media come before any hours, and of each the busiest media first.
"""

import threading
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from exporter.model import DAY_MINUTES, MINUTE, NO_PLAYS, Minute, MinuteRange, Rows, Stream, total_of

# How far the detector looks back.
HOURS_BACK = 22 * DAY_MINUTES
MINUTES_BACK = DAY_MINUTES + 120

# A range that the API refuses is shortened, but not below these.
SHORTEST_HOURS = DAY_MINUTES
SHORTEST_MINUTES = 120

# Seconds until a failed request is sent again.
RETRY_EVERY = 600.0

# The pace of the last so many seconds is the measured one, and needs so many seconds at least.
PACE_WINDOW, PACE_LEAST = 600.0, 180.0


@dataclass(frozen=True, slots=True)
class WarmupRequest:
    """One request for the history of a stream of plays.

    Attributes:
        stream: The stream.
        asked: The requested minutes; whole UTC hours if `hourly`.
        hourly: Whether the plays come by the hour, instead of by the minute.
    """

    stream: Stream
    asked: MinuteRange
    hourly: bool

    @property
    def media_id(self) -> str:
        """The media, "" for the whole merchant."""
        return self.stream.media_id

    @property
    def shortest(self) -> int:
        """The length in minutes below which the range is not shortened."""
        return SHORTEST_HOURS if self.hourly else SHORTEST_MINUTES

    def __str__(self) -> str:
        """The request in a log line."""
        return f"{self.stream} by {'hour' if self.hourly else 'minute'}"


@dataclass(frozen=True, slots=True)
class _Missing:
    """The part of a stream's history that is still missing.

    Attributes:
        minutes: Whether the last day by the minute is missing.
        hours_until: The missing hours end before this minute; None before the first request for hours.
        hours_left: The length of the missing hours, in minutes.
        due: No request before this time (Unix seconds).
    """

    minutes: bool = True
    hours_until: Minute | None = None
    hours_left: int = HOURS_BACK
    due: float = 0.0


class Warmup:
    """The missing history of one merchant's streams. Safe for use by several threads.

    It calls no other object while it holds its lock. What is missing is stored by the drop monitor, in the rows of the
    baselines: a baseline and the note that its history is complete belong in one transaction.
    """

    def __init__(self, streams: Iterable[Stream]) -> None:
        """All history of these streams is missing."""
        self._mutex = threading.Lock()
        self._missing = {stream: _Missing() for stream in streams}
        self._hours = HOURS_BACK
        self._minutes = MINUTES_BACK

    def complete(self, stream: Stream) -> bool:
        """Whether no history of a stream is missing."""
        with self._mutex:
            return stream not in self._missing

    def restart(self, stream: Stream) -> None:
        """All history of a stream is missing again."""
        with self._mutex:
            self._missing[stream] = _Missing()

    def skip(self, stream: Stream) -> None:
        """No history of a stream is missing any more."""
        with self._mutex:
            self._missing.pop(stream, None)

    @property
    def left(self) -> int:
        """How many requests the missing history takes."""
        longest = self._hours // 60 * 60
        with self._mutex:
            return sum(each.minutes + -(-each.hours_left // longest) for each in self._missing.values())

    @property
    def minutes_left(self) -> int:
        """How many of these requests are for minutes, without which a media cannot be judged."""
        with self._mutex:
            return sum(each.minutes for each in self._missing.values())

    def next(
        self, now: float, settled: Minute, under_way: Container[Stream], plays: Mapping[str, float] = NO_PLAYS
    ) -> WarmupRequest | None:
        """The next request, None if none is due: the whole merchant's first, then the busiest media's.

        Args:
            now: Unix seconds.
            settled: The newest settled minute.
            under_way: Streams that have a request under way.
            plays: The plays a minute to expect of each media. Media without are in the order of the configuration,
                after the others.
        """
        with self._mutex:
            due = [
                (stream, missing)
                for stream, missing in self._missing.items()
                # A time far in the future was set before the clock was set back.
                if not now < missing.due <= now + RETRY_EVERY and stream not in under_way
            ]
            if not due:
                return None
            stream, missing = max(
                due, key=lambda each: (each[1].minutes, not each[0].media_id, plays.get(each[0].media_id, 0.0))
            )
            return self._request(stream, missing, settled)

    def done(self, request: WarmupRequest) -> None:
        """Note that the monitor has the answer to a request."""
        with self._mutex:
            missing = self._missing.get(request.stream)
            if missing is None:
                return
            if not request.hourly:
                self._missing[request.stream] = replace(missing, minutes=False)
                return
            left = missing.hours_left - len(request.asked)
            if left > 0:
                self._missing[request.stream] = replace(missing, hours_until=request.asked.first, hours_left=left)
            else:
                del self._missing[request.stream]

    def shorten(self, request: WarmupRequest, length: int | None) -> None:
        """Use shorter ranges after the API refused one.

        Args:
            request: The refused request.
            length: The range to try next, in minutes; None to do without this part of the history.
        """
        if length is None and request.hourly:
            self.skip(request.stream)
        elif length is None:
            self.done(request)
        elif request.hourly:
            self._hours = length
        else:
            self._minutes = length

    def failed(self, request: WarmupRequest, now: float) -> None:
        """Send a request that failed for another reason again, but not soon."""
        with self._mutex:
            if request.stream in self._missing:
                self._missing[request.stream] = replace(self._missing[request.stream], due=now + RETRY_EVERY)

    def _request(self, stream: Stream, missing: _Missing, settled: Minute) -> WarmupRequest:
        if missing.minutes:
            return WarmupRequest(stream, MinuteRange(settled - self._minutes + 1, settled), hourly=False)
        until = (settled + 1) // 60 * 60 if missing.hours_until is None else missing.hours_until
        length = min(missing.hours_left, self._hours // 60 * 60)
        return WarmupRequest(stream, MinuteRange(until - length, until - 1), hourly=True)


class Pace:
    """How fast the missing history becomes less."""

    def __init__(self) -> None:
        # When an answer came, and how many requests were left then. Read by other threads, so it is never changed: a
        # new one takes its place.
        self._answers: tuple[tuple[float, int], ...] = ()

    def note(self, now: float, left: int) -> None:
        """Note an answer.

        Args:
            now: When it came (monotonic seconds).
            left: How many requests are left.
        """
        recent = (each for each in self._answers if now - each[0] <= PACE_WINDOW)
        self._answers = (*recent, (now, left))

    def remaining(self, now: float, left: int, planned: float) -> float | None:
        """Seconds until no request is left, 0 if none is; None if for a long time no answer has come.

        Args:
            now: Monotonic seconds.
            left: How many requests are left.
            planned: So many requests a minute are meant to be sent. The estimate is for these, or for what was measured
                if that is less: a burst at the start is no promise.
        """
        if not left:
            return 0.0
        answers = self._answers
        recent = [each for each in answers if now - each[0] <= PACE_WINDOW]
        if answers and not recent:
            return None
        rate = planned
        if recent and now - recent[0][0] >= PACE_LEAST and recent[0][1] > left:
            rate = min(rate, (recent[0][1] - left) * MINUTE / (now - recent[0][0]))
        return left * MINUTE / rate


def past_minutes(request: WarmupRequest, rows: Rows) -> list[float | None]:
    """The plays of each requested minute, None if unknown.

    Minutes before the first row are unknown: the media may not have existed yet.
    """
    first = min((minute for minute in rows if minute in request.asked), default=request.asked.last + 1)
    minutes = range(request.asked.first, request.asked.last + 1)
    return [total_of(rows.get(minute, {})) if minute >= first else None for minute in minutes]


def past_hours(request: WarmupRequest, rows: Rows) -> Mapping[Minute, float]:
    """The plays of each whole hour in the requested range, by its first minute.

    An hour without a row has no plays. Hours before the first row and hours with unusable values are left out: they are
    unknown.
    """
    asked = request.asked
    whole = {hour: total_of(values) for hour, values in rows.items() if hour in asked and hour + 59 in asked}
    if not whole:
        return {}
    hours = range(min(whole), asked.last - 58, 60)
    return {hour: plays for hour in hours if (plays := whole.get(hour, 0.0)) is not None}
