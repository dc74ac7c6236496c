"""Whether `api.timezone` is the time zone of the API's dates. Pure: time and rows are arguments.

A wrong zone shows in one of two ways. Either rows lie in the future: then the exporter asks for minutes that are hours
old, and their rows look new. Or the newest row is hours old: then it asks for minutes that are still to come. Only a
request that reaches far beyond now, in both directions, shows which it is.
"""

import math
from dataclasses import dataclass, replace
from datetime import tzinfo

from exporter.api.ranges import half
from exporter.localtime import local
from exporter.model import MINUTE, Minute, MinuteRange, Rows, Stream, end_of, minute_of, total_of
from exporter.times import format_duration

# The zones of the world are at most so many minutes apart.
REACH = 26 * 60

# The minutes below which the range of a check is not shortened.
SHORTEST_CHECK = 60

# Seconds. Rows are not in the future by more than this, however the clocks differ.
SLACK = 5 * MINUTE

# Time zones differ by whole half hours (a few by a quarter). A row that is late by a wrong zone is as late as usual
# beyond that, and so late at most.
STEP = 30 * MINUTE
USUAL_LAG = 10 * MINUTE

# The least age of rows that may be the zone's. Younger ones are only late.
LEAST = 60 * MINUTE

# Seconds after which a second look shows whether old rows move on: those of a quiet merchant, or of an API that stands
# still, do not.
CONFIRM = 4 * MINUTE

# After a change of the clocks, local times are there twice or not at all. For so many seconds nothing is concluded.
AFTER_CHANGE = 3 * 60 * MINUTE


@dataclass(frozen=True, slots=True)
class ZoneCheck:
    """A request for the plays of the whole merchant around now, future minutes included.

    Attributes:
        stream: The whole merchant's plays.
        before: The minutes to request before now.
        after: The minutes to request after now.
        minute: The minute that is now.
    """

    stream: Stream
    before: int
    after: int
    minute: Minute

    @property
    def asked(self) -> MinuteRange:
        """The requested minutes."""
        return MinuteRange(self.minute - self.before, self.minute + self.after)

    @property
    def media_id(self) -> str:
        """The media: "", the whole merchant."""
        return self.stream.media_id

    def __str__(self) -> str:
        """The request in a log line."""
        return f"{self.stream} around now, for the time zone"


class ZoneWindows:
    """What a check asks for, as minutes before and after now: one request, until the API refuses it. For one thread."""

    def __init__(self) -> None:
        self._windows = [(REACH, REACH)]
        # What the current check has still to ask for.
        self._open = list(self._windows)

    def next(self, stream: Stream, now: float) -> ZoneCheck | None:
        """The next request of the check (Unix seconds); None if every range is refused."""
        return ZoneCheck(stream, *self._open[0], minute_of(now)) if self._open else None

    def answered(self) -> bool:
        """Note that the last request was answered; returns whether the check is complete, so that another may begin."""
        self._open.pop(0)
        if self._open:
            return False
        self._open = list(self._windows)
        return True

    def refused(self, check: ZoneCheck) -> None:
        """Ask for less than was refused. The minutes to come are asked for alone: they may be what is refused."""
        window = (check.before, check.after)
        at = self._windows.index(window)
        self._windows[at : at + 1] = _narrower(*window)
        self._open[:1] = _narrower(*window)


def _narrower(before: int, after: int) -> list[tuple[int, int]]:
    """What to ask for instead of minutes before and after now that were refused."""
    if before and after:
        return [(before, 0), (0, after)]
    length = half(before + after, SHORTEST_CHECK)
    return [] if length is None else [(length, 0) if before else (0, length)]


@dataclass(frozen=True, slots=True)
class Look:
    """What one answer has shown.

    Attributes:
        at: When it came (Unix seconds).
        newest: The newest minute with plays, None if there is none.
    """

    at: float
    newest: Minute | None

    @property
    def age(self) -> float:
        """Seconds since the end of the newest minute, negative for one in the future; infinite if there is none."""
        return math.inf if self.newest is None else self.at - end_of(self.newest)


@dataclass(frozen=True, slots=True)
class ZoneFinding:
    """What is known of the time zone.

    Attributes:
        offset: Seconds that the API's dates are ahead of `api.timezone`; 0 if it fits, None while that is not known.
        suspect: A look with old rows that may be the zone's, until another look tells.
        local_offset: The offset of `api.timezone` from UTC (seconds) when that was found.
        since: When the zone was found to be wrong (Unix seconds), or None.
    """

    offset: float | None = None
    suspect: Look | None = None
    local_offset: float | None = None
    since: float | None = None

    @property
    def wrong(self) -> bool:
        """Whether the zone is wrong."""
        return bool(self.offset)


def look_at(rows: Rows, now: float) -> Look:
    """What an answer shows. Rows without plays show nothing: an API may have them for all minutes of a day."""
    return Look(now, max((minute for minute, values in rows.items() if total_of(values)), default=None))


def judge_zone(before: ZoneFinding, look: Look, zone: tzinfo) -> ZoneFinding:
    """What is known after one more answer.

    Rows in the future are said at once. Old rows are the zone's only if they are a whole number of half hours older
    than usual, have been so since the first answer, and move on from minute to minute. What moves on with any other
    delay, or stood still, is the API's delay or a quiet merchant.

    Args:
        before: What was known.
        look: What the answer shows.
        zone: `api.timezone`.
    """
    found = _judge(before, look, zone)
    since = before.since if before.wrong else look.at
    return replace(found, since=since if found.wrong else None)


def _judge(before: ZoneFinding, look: Look, zone: tzinfo) -> ZoneFinding:
    """The same, without since when."""
    here = _local_offset(look.at, zone)
    if look.newest is None or here != _local_offset(look.at - AFTER_CHANGE, zone):
        return before
    if before.local_offset not in (None, here):
        # The clocks have been changed in this zone, and perhaps not in the API's.
        before = ZoneFinding(before.offset if before.wrong else None)
    if look.age < -SLACK:
        # The newest row is a little behind the API's own time, or that of the current minute, which has not ended.
        return ZoneFinding(_steps(-look.age + STEP - 2 * MINUTE) * STEP, local_offset=here)
    if look.age < STEP:
        return ZoneFinding(0.0, local_offset=here)
    return replace(_judge_old(before, look), local_offset=here)


def _judge_old(before: ZoneFinding, look: Look) -> ZoneFinding:
    """What is known after an answer whose newest row is old."""
    if before.offset == 0.0 or not _may_be_zone(look):
        return ZoneFinding(before.offset)
    first = before.suspect or look
    elapsed = look.at - first.at
    if elapsed < CONFIRM:
        return ZoneFinding(before.offset, first)
    moves_on = elapsed - (look.age - first.age) >= elapsed / 2
    return ZoneFinding(-_steps(look.age) * STEP if moves_on else before.offset, look)


def zone_error(offset: float | None, now: float, zone: tzinfo) -> str:
    """What is wrong and how to fix it, in two sentences; "" if nothing is known to be wrong.

    Args:
        offset: As in `ZoneFinding`.
        now: Unix seconds.
        zone: `api.timezone`.
    """
    if not offset:
        return ""
    where = "in the future" if offset > 0 else "old"
    minutes = round((_local_offset(now, zone) + offset) / MINUTE)
    hours, rest = divmod(abs(minutes), 60)
    return (
        f"The time zone is wrong: by api.timezone ({zone}) the newest plays of the API are "
        f"{format_duration(abs(offset))} {where}, so the counters are wrong. "
        f"Set api.timezone to the zone of the API, which seems to be UTC{'-' if minutes < 0 else '+'}"
        f"{hours:02}:{rest:02} now, and reload the configuration."
    )


def _may_be_zone(look: Look) -> bool:
    steps = _steps(look.age)
    return steps * STEP >= LEAST and look.age - steps * STEP <= USUAL_LAG


def _steps(seconds: float) -> int:
    """The whole half hours in so many seconds."""
    return int(seconds // STEP)


def _local_offset(instant: float, zone: tzinfo) -> float:
    offset = local(minute_of(instant), zone).utcoffset()
    return 0.0 if offset is None else offset.total_seconds()
