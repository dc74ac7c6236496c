"""Which plays of the past to ask for, so that the drop detector knows a media's usual week from the first day on.

Hours of three weeks are known by few requests, and minutes of the last day tell how much the plays jump about. Both
come at the lowest priority, minutes of all media first. Pure but for what it remembers.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from exporter.model import DAY_MINUTES, Minute, MinuteRange, Rows, Stream, total_of

# What the detector looks back on.
HOURS_BACK = 22 * DAY_MINUTES
MINUTES_BACK = DAY_MINUTES + 120

# A range that the API refuses is halved, down to these.
SHORTEST_HOURS = DAY_MINUTES
SHORTEST_MINUTES = 120

# Seconds until what failed is asked for again.
RETRY_EVERY = 600.0


@dataclass(frozen=True, slots=True)
class WarmupRequest:
    """One request for plays of the past.

    Attributes:
        stream: Whose plays.
        asked: Of which minutes; whole UTC hours where it is by hour.
        hourly: Whether it is by hour, instead of by minute.
    """

    stream: Stream
    asked: MinuteRange
    hourly: bool

    @property
    def media_id(self) -> str:
        """Whose plays, "" for the whole merchant."""
        return self.stream.media_id

    def __str__(self) -> str:
        """The request in a log line."""
        return f"{self.stream} by {'hour' if self.hourly else 'minute'}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a stream's past is still to be asked for.

    Attributes:
        minutes: Whether the last day by minute is.
        hours_until: The hours before this minute are; None where none has been asked for.
        hours_left: Of how many minutes the hours are.
        due: Not before this moment (Unix seconds).
    """

    minutes: bool = True
    hours_until: Minute | None = None
    hours_left: int = HOURS_BACK
    due: float = 0.0


class Warmup:
    """What is still to be asked for, of all streams of one merchant."""

    def __init__(self, streams: Iterable[Stream]) -> None:
        """All of the past of these is wanted."""
        self._wanted = {stream: Wanted() for stream in streams}
        self._hours = HOURS_BACK
        self._minutes = MINUTES_BACK

    def wanted(self, stream: Stream) -> bool:
        """Whether anything of a stream's past is."""
        return stream in self._wanted

    def want(self, stream: Stream) -> None:
        """All of a stream's past is wanted again."""
        self._wanted[stream] = Wanted()

    def known(self, stream: Stream) -> None:
        """Nothing of a stream's past is wanted any more."""
        self._wanted.pop(stream, None)

    def next(self, now: float, settled: Minute, under_way: Container[Stream]) -> WarmupRequest | None:
        """What to ask for next, if anything is due.

        Args:
            now: Unix seconds.
            settled: The newest settled minute.
            under_way: Streams that are not to be asked for now.
        """
        for minutes in (True, False):
            for stream, wanted in self._wanted.items():
                # A moment that is far away was set before the clock went back.
                due = not now < wanted.due <= now + RETRY_EVERY
                if wanted.minutes is minutes and due and stream not in under_way:
                    return self._request(stream, wanted, settled)
        return None

    def answered(self, history: WarmupRequest) -> None:
        """A request of the past brought its rows."""
        wanted = self._wanted.get(history.stream)
        if wanted is None:
            return
        if not history.hourly:
            self._wanted[history.stream] = replace(wanted, minutes=False)
            return
        left = wanted.hours_left - len(history.asked)
        self._wanted[history.stream] = replace(wanted, hours_until=history.asked.first, hours_left=left)
        if left <= 0:
            self.known(history.stream)

    def refused(self, history: WarmupRequest) -> None:
        """The API does not take the range: ask for half of it, or do without where it is short already."""
        length = len(history.asked)
        shortest = SHORTEST_HOURS if history.hourly else SHORTEST_MINUTES
        if length > shortest and history.hourly:
            self._hours = max(shortest, length // 2)
        elif length > shortest:
            self._minutes = max(shortest, length // 2)
        elif history.hourly:
            self.known(history.stream)
        else:
            self.answered(history)

    def failed(self, history: WarmupRequest, now: float) -> None:
        """A request of the past failed otherwise; it is made again, but not soon."""
        if history.stream in self._wanted:
            self._wanted[history.stream] = replace(self._wanted[history.stream], due=now + RETRY_EVERY)

    def _request(self, stream: Stream, wanted: Wanted, settled: Minute) -> WarmupRequest:
        if wanted.minutes:
            return WarmupRequest(stream, MinuteRange(settled - self._minutes + 1, settled), hourly=False)
        until = (settled + 1) // 60 * 60 if wanted.hours_until is None else wanted.hours_until
        length = min(wanted.hours_left, self._hours // 60 * 60)
        return WarmupRequest(stream, MinuteRange(until - length, until - 1), hourly=True)


def past_minutes(history: WarmupRequest, rows: Rows) -> list[float | None]:
    """The plays of each minute asked for, None where they are not known.

    So are those before the first row, since no media was there yet.
    """
    first = min((minute for minute in rows if minute in history.asked), default=history.asked.last + 1)
    minutes = range(history.asked.first, history.asked.last + 1)
    return [total_of(rows.get(minute, {})) if minute >= first else None for minute in minutes]


def past_hours(history: WarmupRequest, rows: Rows) -> Mapping[Minute, float]:
    """The plays of each hour that was asked for whole, by the minute at which it starts.

    Hours without a row are zero, but for those before the first row: no media was there yet. What is not known is left
    out.
    """
    whole = {slot: total_of(values) for slot, values in rows.items() if _whole(slot, history.asked)}
    if not whole:
        return {}
    hours = range(min(whole), history.asked.last - 58, 60)
    return {slot: plays for slot in hours if (plays := whole.get(slot, 0.0)) is not None}


def _whole(slot: Minute, asked: MinuteRange) -> bool:
    return slot in asked and slot + 59 in asked
