"""What one stream has counted, and what an answer changes of it: plain values.

A *bucket* is what one row stands for, named by the minute at which it starts: a minute, or for targets that the API
only has by day, a local day. All values and totals are whole millionths (see `units`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from exporter.counting.held import Cell, Held
from exporter.model import DAY_MINUTES, Minute, Target
from exporter.units import LARGEST_TOTAL

# A counter that could not be raised for longer than this (minutes) is reset.
LONGEST_OWED = DAY_MINUTES


@dataclass(frozen=True, slots=True)
class Account:
    """The counter of one label value.

    The API can lower a value that was counted, but a counter must not fall. So the decrease is owed: later increases
    pay it off before the counter rises again.

    Attributes:
        total: The value of the counter. It only rises, or resets to 0.
        owed: Decreases that later increases have not paid off yet. `total - owed` is the sum of the newest values.
        owed_since: The newest counted minute when `owed` last became more than 0; None while it is 0.
    """

    total: int = 0
    owed: int = 0
    owed_since: Minute | None = None

    def changed(self, delta: int, through: Minute) -> "Account":
        """The account after the sum of its values changed by `delta`, in an answer that counts up to `through`."""
        # `through` can be before `owed_since`: minutes counted by a wrong clock may have been undone since.
        since = through if self.owed_since is None else min(self.owed_since, through)
        if delta < 0:
            return Account(self.total, self.owed - delta, since)
        paid = min(delta, self.owed)
        owed = self.owed - paid
        return Account(self.total + delta - paid, owed, since if owed else None)

    def reset(self, delta: int, through: Minute) -> "Account | None":
        """The account that replaces this one, whose last change was `delta`; None if this one can go on.

        An account that has owed for too long resets to 0. One that the state file cannot hold resets to its last
        change.
        """
        if max(self.total, self.owed) > LARGEST_TOTAL:
            return Account(min(max(0, delta), LARGEST_TOTAL))
        if self.owed_since is not None and through - self.owed_since > LONGEST_OWED:
            return Account()
        return None


@dataclass(frozen=True, slots=True)
class StreamRow:
    """How far a stream has been counted.

    Attributes:
        stream_id: Its key in the state file.
        start: Counting starts with the minute after this one.
        through: The newest counted minute.
        seen: The newest minute counted because the API returned a row for it or for a later one. The minutes after it
            were counted as empty.
        kept_from: The oldest bucket whose value can still be revised.
        answered: Whether counting has started with an answer of the API.
        rate: Smoothed plays a minute; None if it does not count plays, or has had no answer.
        peak: The largest counted value of a bucket.
        held: The values that are held back and not counted yet.
    """

    stream_id: int
    start: Minute
    through: Minute
    seen: Minute
    kept_from: Minute
    answered: bool
    rate: float | None = None
    peak: int = 0
    held: Mapping[Cell, Held] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def oldest_held(self) -> Minute | None:
        """The oldest bucket with a held value."""
        return min((bucket for bucket, _ in self.held), default=None)


@dataclass(frozen=True, slots=True)
class StreamLedger:
    """What one stream has counted before an answer.

    Attributes:
        target: What it counts.
        row: How far it has been counted.
        buckets: The values from `kept_from` on, by bucket and label value; a missing one is 0.
        accounts: By label value, in the order in which they were first seen.
    """

    target: Target
    row: StreamRow
    buckets: Mapping[Minute, Mapping[str, int]]
    accounts: Mapping[str, Account]


@dataclass(frozen=True, slots=True)
class Change:
    """The new value of a bucket for one label value."""

    bucket: Minute
    label: str
    value: int


@dataclass(frozen=True, slots=True)
class Revision:
    """A change of a value that had already been counted.

    Attributes:
        age: Seconds from the end of the minute to the answer that changed it.
        up: Whether the value rose.
    """

    age: float
    up: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What an answer changes in a stream's ledger.

    Attributes:
        row: How far the stream has been counted now.
        accounts: The new and the changed accounts, by label value.
        changes: The buckets to write, without those before `kept_from`.
        last: By label value, the value of the minute `through` (0 for known label values without one, None for held
            values). None if the answer does not cover that minute.
        revisions: The revised values.
        resets: By label value, what the counters that reset to 0 still owed.
        overflow: Number of label values that were counted as `other`, or left out, because the stream has its maximum
            of series.
        lost: Minutes that were too old to be asked for, or whose values stayed unusable for too long.
        expired: How many of them for the second reason.
    """

    row: StreamRow
    accounts: Mapping[str, Account]
    changes: tuple[Change, ...]
    last: Mapping[str, int | None] | None
    revisions: tuple[Revision, ...] = ()
    resets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    overflow: int = 0
    lost: int = 0
    expired: int = 0
