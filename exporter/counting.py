"""How plays are counted: which minutes are settled, what to ask for, and what an answer adds. All of it pure.

A *slot* is what a row stands for, named by the minute at which it starts: the minute itself, or for targets that
the API has by day only, the local day.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from statistics import fmean
from types import MappingProxyType

from exporter.config import PollSettings
from exporter.localtime import with_whole_repeat
from exporter.model import MINUTE, OTHER, Minute, MinuteRange, Rows, Target, end_of, minute_of

# A range of an hour or less is not made shorter when the API refuses it: what it refuses is something else.
SHORTEST_RANGE = 60

# A rise of the plays is half believed after 14 minutes.
RATE_MINUTES = 20


@dataclass(frozen=True, slots=True)
class Account:
    """One label value's counter.

    Attributes:
        total: What has been counted; it never falls.
        owed: Decreases that later increases have yet to pay. `total - owed` is the sum of the newest values.
    """

    total: float = 0
    owed: float = 0

    def changed(self, delta: float) -> "Account":
        """The account after the sum of its values changed by `delta`."""
        if delta < 0:
            return Account(self.total, self.owed - delta)
        paid = min(delta, self.owed)
        return Account(self.total + delta - paid, self.owed - paid)


@dataclass(frozen=True, slots=True)
class Book:
    """What one stream has counted before an answer.

    Attributes:
        target: What it counts.
        start: The minutes after this one are counted.
        through: The newest minute counted.
        seen: The newest minute counted because its row or a later one was there. Those after it were taken as empty.
        kept_from: The oldest slot whose value can still be revised.
        answered: Whether it has had an answer.
        rate: Smoothed plays a minute, where it counts plays and has had an answer.
        slots: The values from `kept_from` on; one that is not there is 0.
        accounts: By label value, in the order in which they were first seen.
    """

    target: Target
    start: Minute
    through: Minute
    seen: Minute
    kept_from: Minute
    answered: bool
    rate: float | None = None
    slots: Rows = field(default_factory=lambda: MappingProxyType({}))
    accounts: Mapping[str, Account] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Change:
    """A slot's value that is other than before."""

    slot: Minute
    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Revision:
    """A value that changed after it had been counted.

    Attributes:
        age: Seconds from the end of the minute to the answer that changed it.
        up: Whether it rose.
    """

    age: float
    up: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What an answer does to a book.

    Attributes:
        through: The newest minute counted now.
        seen: The newest minute counted now because its row or a later one was there.
        kept_from: The oldest slot that can still be revised now.
        accounts: The accounts that are new or changed, by label value.
        changes: The slots to write, those before `kept_from` left out.
        last: By label value, what the minute `through` has (0 for known ones that are not there), or None where
            the answer does not tell.
        rate: Smoothed plays a minute, where the stream counts plays.
        revisions: The values that changed.
        lost: Minutes that were too old to be asked for.
    """

    through: Minute
    seen: Minute
    kept_from: Minute
    accounts: Mapping[str, Account]
    changes: tuple[Change, ...]
    last: Mapping[str, float] | None
    rate: float | None = None
    revisions: tuple[Revision, ...] = ()
    lost: int = 0


def ended_before(now: float, seconds: float) -> Minute:
    """The newest minute that ended at least `seconds` ago."""
    return minute_of(now - seconds) - 1


def newest_settled(now: float, horizon: Minute | None, poll: PollSettings) -> Minute:
    """The newest minute that is treated as complete.

    It has ended `settle` ago, and a row for it or a later one has been seen, or `max_lag` has passed.
    """
    complete = ended_before(now, poll.settle)
    waited_for = ended_before(now, poll.max_lag)
    return min(complete, waited_for if horizon is None else max(horizon, waited_for))


def minutes_to_ask(
    through: Minute,
    seen: Minute,
    horizon: Minute | None,
    now: float,
    poll: PollSettings,
    longest: int | None = None,
    zone: tzinfo = UTC,
) -> MinuteRange:
    """The minutes to ask for next.

    They begin a revision window before what is counted. Minutes that were taken as empty because `max_lag` had
    passed are no part of the window: their rows may yet come, so it begins before them.

    Args:
        through: The newest minute that the stream has counted.
        seen: The newest that it has counted because its row or a later one was there.
        horizon: The newest minute of which the merchant has shown a row.
        now: The time.
        poll: The settings.
        longest: The longest range that the API takes, where it is known. The window then gives way, so that an
            answer always moves on.
        zone: The API's. Where its local time is there twice, both passes are asked for, as rows do not tell which of
            them they are of.
    """
    window = whole_minutes(poll.revision_window)
    newest = max(ended_before(now, poll.settle), through)
    earliest = newest - whole_minutes(poll.max_catch_up) + 1
    first = max(with_whole_repeat(min(through, seen) - window, zone), earliest)
    if longest is None or newest - first < longest:
        return MinuteRange(first, newest)
    # Where rows have come since for minutes taken as empty, those are read first.
    base = through if horizon is None or horizon <= seen else min(through, seen)
    first = max(first, base - min(window, longest // 2))
    return MinuteRange(first, min(newest, first + longest - 1))


def days_to_ask(through: Minute, now: float, zone: tzinfo, poll: PollSettings) -> MinuteRange:
    """The local days to ask for next, as minutes: from the day before the one of `through` to today."""
    earliest = _local_day(now - poll.max_catch_up, zone)
    first = max(_local_day(end_of(through), zone) - timedelta(days=1), earliest)
    after = _local_day(now, zone) + timedelta(days=1)
    return MinuteRange(_midnight(first, zone), _midnight(after, zone) - 1)


def count_minutes(
    book: Book,
    rows: Rows,
    asked: MinuteRange,
    now: float,
    horizon: Minute | None,
    poll: PollSettings,
    zone: tzinfo = UTC,
) -> Entry:
    """Enter the rows of an answer by minute.

    Args:
        book: The stream before the answer.
        rows: The answer.
        asked: What was asked for; rows outside it are not used.
        now: When the answer came.
        horizon: The merchant's, this answer included.
        poll: The settings.
        zone: The API's. A local time that is there twice can be revised as long as a part of it can.
    """
    upto = min(newest_settled(now, horizon, poll), asked.last)
    lost = max(0, asked.first - (book.through + 1))
    counted = book.through + lost
    through = max(counted, upto)
    rows, accounts = _admit(book, _within(rows, asked), poll.max_label_values)
    seen = book.seen
    reachable = max(seen, ended_before(now, poll.settle) - whole_minutes(poll.max_catch_up))
    # An answer that begins after minutes taken as empty says nothing of their rows, though its own are there.
    if horizon is not None and asked.first <= reachable + 1:
        seen = max(seen, min(through, horizon, asked.last))
    kept_from = max(book.kept_from, with_whole_repeat(seen - whole_minutes(poll.revision_window), zone))
    last = _values_of(through, rows, accounts) if through <= upto else None
    if not book.target.summable:
        return Entry(through, seen, kept_from, accounts, (), last, lost=lost)
    countable = MinuteRange(max(asked.first, book.kept_from, book.start + 1), upto)
    changes, deltas, revisions = [], dict.fromkeys(accounts, 0.0), []
    for change, delta in _differences(book.slots, rows, countable):
        changes.append(change)
        deltas[change.label] += delta
        if change.slot <= counted:
            revisions.append(Revision(age=now - end_of(change.slot), up=delta > 0))
    return Entry(
        through=through,
        seen=seen,
        kept_from=kept_from,
        accounts=_changed(book.accounts, accounts, deltas),
        changes=tuple(change for change in changes if change.slot >= kept_from),
        last=last,
        rate=_rate(book, rows, MinuteRange(counted + 1 if book.answered else asked.first, upto)),
        revisions=tuple(revisions),
        lost=lost,
    )


def count_days(book: Book, rows: Rows, asked: MinuteRange, through: Minute, poll: PollSettings) -> Entry:
    """Enter the rows of an answer by day.

    The first answer only says where counting starts. From then on the counter grows by the increases of the days'
    values: today's, and those of the days before that are asked for again.

    Args:
        book: The stream before the answer.
        rows: The answer, by the minute at which each local day starts.
        asked: The days asked for, from the first minute of the first to the last minute of the last.
        through: The minute up to which the answer tells.
        poll: The settings.
    """
    rows, accounts = _admit(book, _within(rows, asked), poll.max_label_values)
    kept_from = max(book.kept_from, asked.first) if book.answered else asked.first
    changes, deltas = [], dict.fromkeys(accounts, 0.0)
    for change, delta in _differences(book.slots, rows, MinuteRange(kept_from, asked.last)):
        changes.append(change)
        deltas[change.label] += delta if book.answered else 0
    lost = max(0, asked.first - (book.through + 1)) if book.answered else 0
    return Entry(
        through=max(book.through, through),
        seen=max(book.seen, through),
        kept_from=kept_from,
        accounts=_changed(book.accounts, accounts, deltas),
        changes=tuple(changes),
        last=None,
        lost=lost,
    )


def whole_minutes(seconds: float) -> int:
    """Seconds as minutes, a part of one counted whole."""
    return math.ceil(seconds / MINUTE)


def _local_day(instant: float, zone: tzinfo) -> date:
    return datetime.fromtimestamp(instant, zone).date()


def _midnight(day: date, zone: tzinfo) -> Minute:
    return minute_of(datetime.combine(day, time(), zone).timestamp())


def _within(rows: Rows, asked: MinuteRange) -> Rows:
    return {slot: values for slot, values in rows.items() if slot in asked}


def _admit(book: Book, rows: Rows, most: int) -> tuple[Rows, dict[str, Account]]:
    """Give new label values a series, or put them under `other` where there are enough.

    Returns:
        The rows with the label values of the series, and all accounts, new ones last.
    """
    accounts = dict(book.accounts)
    admitted: dict[Minute, dict[str, float]] = {}
    for slot in sorted(rows):
        values = admitted[slot] = {}
        for label, value in rows[slot].items():
            name = label
            if label not in accounts:
                full = len(accounts) - (OTHER in accounts) >= most
                # An average of averages is not one: those beyond the limit are left out.
                if full and book.target is Target.AVERAGE_PLAY_TIME:
                    continue
                name = OTHER if full else label
                accounts.setdefault(name, Account())
            values[name] = values.get(name, 0) + value
    return admitted, accounts


def _differences(before: Rows, after: Rows, within: MinuteRange) -> Iterator[tuple[Change, float]]:
    nothing: Mapping[str, float] = {}
    for slot in sorted(before.keys() | after.keys()):
        if slot not in within:
            continue
        old, new = before.get(slot, nothing), after.get(slot, nothing)
        for label in (*new, *(label for label in old if label not in new)):
            value = new.get(label, 0)
            delta = value - old.get(label, 0)
            if delta:
                yield Change(slot, label, value), delta


def _changed(
    before: Mapping[str, Account], accounts: Mapping[str, Account], deltas: Mapping[str, float]
) -> dict[str, Account]:
    # A rise and a fall in one answer are set off against each other first: less is owed for less long.
    return {
        label: account.changed(deltas[label])
        for label, account in accounts.items()
        if deltas[label] or label not in before
    }


def _rate(book: Book, rows: Rows, new: MinuteRange) -> float | None:
    """An exponential mean of the plays a minute, to know which streams to ask for most."""
    if book.target is not Target.PLAY_COUNT:
        return None
    plays = [sum(rows.get(minute, {}).values()) for minute in range(new.first, new.last + 1)]
    rate = book.rate
    if rate is None:
        return fmean(plays) if plays else None
    for value in plays:
        rate += (value - rate) / RATE_MINUTES
    return rate


def _values_of(minute: Minute, rows: Rows, accounts: Mapping[str, Account]) -> dict[str, float]:
    values = rows.get(minute, {})
    return {label: values.get(label, 0) for label in accounts}
