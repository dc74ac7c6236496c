"""The types that all parts share: targets, groups, streams, minutes.

Times are UTC. A minute is an int, Unix time // 60, and is named by its start. Instants are floats, Unix seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

Minute = int

MINUTE = 60.0
DAY_MINUTES = 24 * 60

# Plays a minute by media, where none are known.
NO_PLAYS: Mapping[str, float] = MappingProxyType({})


class Target(StrEnum):
    """What the API counts; the value is the name in the API."""

    PLAY_COUNT = "play_count"
    PLAY_TIME = "play_time"
    PLAYER_COUNT = "player_count"
    DEVICE_COUNT = "device_count"
    SESSION_COUNT = "session_count"
    AVERAGE_PLAY_TIME = "average_play_time"
    KEY_DELIVERY_COUNT = "key_delivery_count"

    @property
    def summable(self) -> bool:
        """Whether values of different minutes can be added, so that a counter makes sense."""
        return self not in (Target.DEVICE_COUNT, Target.SESSION_COUNT, Target.AVERAGE_PLAY_TIME)

    @property
    def by_day(self) -> bool:
        """Whether the API returns it by day only, not by minute."""
        return self is Target.KEY_DELIVERY_COUNT


class Group(StrEnum):
    """How the API splits a target; the value is the name in the API and the label name."""

    ALL = "all"
    COUNTRY = "country"
    PLAYER = "player"
    SITE = "site"
    DEVICE = "device"
    OS = "os"
    PERCENTAGE = "percentage"


@dataclass(frozen=True, slots=True)
class Stream:
    """The values that one request refreshes.

    Attributes:
        merchant_id: The merchant.
        media_id: The media, or "" for the whole merchant.
        target: What is counted.
        group: How it is split.
    """

    merchant_id: str
    media_id: str
    target: Target
    group: Group

    @property
    def counts_plays(self) -> bool:
        """Whether its values are plays without a group, which the drop detector watches."""
        return self.target is Target.PLAY_COUNT and self.group is Group.ALL

    def __str__(self) -> str:
        """The stream in a log line."""
        return f"{self.media_id or 'whole merchant'}/{self.target}/{self.group}"


@dataclass(frozen=True, slots=True)
class MinuteRange:
    """Minutes from `first` to `last`, both included."""

    first: Minute
    last: Minute

    def __contains__(self, minute: Minute) -> bool:
        return self.first <= minute <= self.last

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)


# The values of one answer: start of the bucket (minute or day) -> label value -> value. The label value of a stream
# whose group is `all` is "". Values are finite and not negative. None is a value that the API returned but that cannot
# be used, so it is still unknown.
Rows = Mapping[Minute, Mapping[str, float | None]]


def total_of(values: Mapping[str, float | None]) -> float | None:
    """The sum of a row over its label values, 0 if there are none; None if one of them is unknown."""
    known = [value for value in values.values() if value is not None]
    return sum(known) if len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class Reading:
    """One parsed answer.

    Attributes:
        rows: Its values.
        problems: What could not be used, one line each.
    """

    rows: Rows
    problems: tuple[str, ...] = ()


# The label value of the series that counts all label values beyond `max_label_values`.
OTHER = "other"


@dataclass(frozen=True, slots=True)
class LiveState:
    """The newest known state of a live event.

    Attributes:
        running: Whether it was running.
        since: The earliest known time at which it was running (Unix seconds); only valid if `running`.
        at: When the state was fetched (Unix seconds).
    """

    running: bool
    since: float
    at: float


def minute_of(instant: float) -> Minute:
    """The minute that holds an instant (Unix seconds)."""
    return int(instant // MINUTE)


def start_of(minute: Minute) -> float:
    """The instant (Unix seconds) at which a minute starts."""
    return minute * MINUTE


def end_of(minute: Minute) -> float:
    """The instant (Unix seconds) at which a minute ends."""
    return (minute + 1) * MINUTE
