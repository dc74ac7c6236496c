"""How plays are counted: which minutes are settled, what to ask for, and what an answer adds. All of it pure.

A *slot* is what a row stands for, named by the minute at which it starts: the minute itself, or for targets that
the API has by day only, the local day. Values, totals and what is owed are whole millionths (see `units`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from statistics import fmean, median_low
from types import MappingProxyType

from exporter.config.settings import PollSettings
from exporter.counting.holding import Cell, Cells, Held, doubt, give_up, hold, largest_plausible, oldest_held, without
from exporter.localtime import with_whole_repeat
from exporter.model import DAY_MINUTES, MINUTE, OTHER, Minute, MinuteRange, Rows, Target, end_of, minute_of, start_of
from exporter.units import LARGEST, LARGEST_TOTAL, from_units, to_units

# A rise of the plays is half believed after 14 minutes.
RATE_MINUTES = 20

# From so many rows on, the middle one of a first answer says what is usual.
FEW_ROWS = 10

# What is owed for longer ends: the counter begins again at 0.
LONGEST_OWED = DAY_MINUTES


@dataclass(frozen=True, slots=True)
class Account:
    """One label value's counter.

    Attributes:
        total: What has been counted since the counter began; it never falls, but to begin again at 0.
        owed: Decreases that later increases have yet to pay. `total - owed` is the sum of the newest values.
        owed_since: The newest minute counted when it last began to owe, or None where it owes nothing.
    """

    total: int = 0
    owed: int = 0
    owed_since: Minute | None = None

    def changed(self, delta: int, through: Minute) -> "Account":
        """The account after the sum of its values changed by `delta`, in an answer that counts up to `through`."""
        # Minutes that a wrong clock let be counted may have been taken back since.
        since = through if self.owed_since is None else min(self.owed_since, through)
        if delta < 0:
            return Account(self.total, self.owed - delta, since)
        paid = min(delta, self.owed)
        owed = self.owed - paid
        return Account(self.total + delta - paid, owed, since if owed else None)

    def begun_again(self, delta: int, through: Minute) -> "Account | None":
        """The account that takes the place of this one, which changed by `delta` last; None where it can go on.

        One that owes for too long begins at 0. One that the state file cannot hold begins with what came last.
        """
        if max(self.total, self.owed) > LARGEST_TOTAL:
            return Account(min(max(0, delta), LARGEST_TOTAL))
        if self.owed_since is not None and through - self.owed_since > LONGEST_OWED:
            return Account()
        return None


@dataclass(frozen=True, slots=True)
class StreamLedger:
    """What one stream has counted before an answer.

    Attributes:
        target: What it counts.
        start: The minutes after this one are counted.
        through: The newest minute counted.
        seen: The newest minute counted because its row or a later one was there. Those after it were taken as empty.
        kept_from: The oldest slot whose value can still be revised.
        answered: Whether it has had an answer.
        rate: Smoothed plays a minute, where it counts plays and has had an answer.
        peak: The largest value of a slot that has been counted.
        slots: The values from `kept_from` on; one that is not there is 0.
        held: The values that wait, and are not counted yet.
        accounts: By label value, in the order in which they were first seen.
    """

    target: Target
    start: Minute
    through: Minute
    seen: Minute
    kept_from: Minute
    answered: bool
    rate: float | None = None
    peak: int = 0
    slots: Mapping[Minute, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    held: Mapping[Cell, Held] = field(default_factory=lambda: MappingProxyType({}))
    accounts: Mapping[str, Account] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Change:
    """A slot's value that is other than before."""

    slot: Minute
    label: str
    value: int


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
        last: By label value, what the minute `through` has (0 for known ones that are not there, None for what
            waits), or None where the answer does not tell.
        rate: Smoothed plays a minute, where the stream counts plays.
        peak: The largest value of a slot that has been counted.
        held: All values that wait now.
        revisions: The values that changed.
        begun_again: By label value, what the counters owed that begin again at 0.
        overflow: How many label values of the answer were put under `other`, or left out, for want of a series.
        lost: Minutes that were too old to be asked for, or whose values could not be used until they were.
        given_up: How many of them for the latter reason.
        answered: Whether counting has begun.
    """

    through: Minute
    seen: Minute
    kept_from: Minute
    accounts: Mapping[str, Account]
    changes: tuple[Change, ...]
    last: Mapping[str, int | None] | None
    rate: float | None = None
    peak: int = 0
    held: Mapping[Cell, Held] = field(default_factory=lambda: MappingProxyType({}))
    revisions: tuple[Revision, ...] = ()
    begun_again: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    overflow: int = 0
    lost: int = 0
    given_up: int = 0
    answered: bool = True


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
    held: Minute | None = None,
    zone: tzinfo = UTC,
) -> MinuteRange:
    """The minutes to ask for next.

    They begin a revision window before what is counted. Minutes that were taken as empty because `max_lag` had
    passed are no part of the window: their rows may yet come, so it begins before them. So it does before minutes
    that hold a value which is not counted yet, however old they are.

    Args:
        through: The newest minute that the stream has counted.
        seen: The newest that it has counted because its row or a later one was there.
        horizon: The newest minute of which the merchant has shown a row.
        now: The time.
        poll: The settings.
        longest: The longest range that the API takes, where it is known. The window then gives way, so that an
            answer always moves on.
        held: The oldest minute that holds a value which is not counted yet.
        zone: The API's. Where its local time is there twice, both passes are asked for, as rows do not tell which of
            them they are of.
    """
    window = whole_minutes(poll.revision_window)
    newest = max(ended_before(now, poll.settle), through)
    earliest = newest - whole_minutes(poll.max_catch_up) + 1
    first = max(with_whole_repeat(min(through, seen) - window, zone), earliest)
    first = first if held is None else min(first, held)
    if longest is None or newest - first < longest:
        return MinuteRange(first, newest)
    # Where rows have come since for minutes taken as empty, those are read first.
    base = through if horizon is None or horizon <= seen else min(through, seen)
    # A range that ends with the newest minute moves on, however far back it begins.
    first = max(first, min(base - min(window, longest // 2), newest - longest + 1))
    return MinuteRange(first, min(newest, first + longest - 1))


def days_to_ask(
    through: Minute, now: float, zone: tzinfo, poll: PollSettings, held: Minute | None = None
) -> MinuteRange:
    """The local days to ask for next, as minutes: from the day before the one of `through` to today.

    They begin earlier where `held`, the oldest day that holds a value which is not counted yet, does.
    """
    earliest = _local_day(now - poll.max_catch_up, zone)
    first = max(_local_day(end_of(through), zone) - timedelta(days=1), earliest)
    first = first if held is None else min(first, _local_day(start_of(held), zone))
    after = _local_day(now, zone) + timedelta(days=1)
    return MinuteRange(_midnight(first, zone), _midnight(after, zone) - 1)


def count_minutes(
    book: StreamLedger,
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
    admitted = _admit(book, _within(rows, asked), poll.max_label_values)
    seen = book.seen
    reachable = max(seen, ended_before(now, poll.settle) - whole_minutes(poll.max_catch_up))
    # An answer that begins after minutes taken as empty says nothing of their rows, though its own are there.
    if horizon is not None and asked.first <= reachable + 1:
        seen = max(seen, min(through, horizon, asked.last))
    window = whole_minutes(poll.revision_window)
    revisable = with_whole_repeat(seen - window, zone)
    kept_from = max(book.kept_from, revisable)
    if not book.target.summable:
        last = _values_of(through, admitted.cells, admitted.accounts) if through <= upto else None
        return Entry(through, seen, kept_from, admitted.added(book), (), last, overflow=admitted.overflow, lost=lost)
    if not book.answered:
        book = replace(book, peak=_usual(admitted.cells))
    countable = MinuteRange(max(asked.first, book.kept_from, book.start + 1), upto)
    doubted = doubt(admitted.cells, book.held, largest_plausible(book.target, book.peak), through, window)
    cells = without(admitted.cells, doubted)
    held = hold(book.held, doubted, countable)
    held, given_up = give_up(held, through, window, revisable, whole_minutes(poll.max_catch_up))
    # What is held can still be counted, so all from there on can still be revised.
    kept_from = max(book.kept_from, oldest_held(held, default=kept_from))
    changes, deltas, revisions = [], dict.fromkeys(admitted.accounts, 0), []
    for change, delta in _differences(book.slots, cells, countable):
        changes.append(change)
        deltas[change.label] += delta
        if change.slot <= counted and (change.slot, change.label) not in book.held:
            revisions.append(Revision(age=now - end_of(change.slot), up=delta > 0))
    accounts, begun_again = _changed(book.accounts, admitted.accounts, deltas, through)
    return Entry(
        through=through,
        seen=seen,
        kept_from=kept_from,
        accounts=accounts,
        changes=tuple(change for change in changes if change.slot >= kept_from),
        last=_values_of(through, cells, admitted.accounts) if through <= upto else None,
        rate=_rate(book, cells, MinuteRange(counted + 1 if book.answered else asked.first, upto)),
        peak=_peak(book, changes, cells, anew=bool(begun_again)),
        held=held,
        revisions=tuple(revisions),
        begun_again=begun_again,
        overflow=admitted.overflow,
        lost=lost + given_up,
        given_up=given_up,
    )


def count_days(book: StreamLedger, rows: Rows, asked: MinuteRange, through: Minute, poll: PollSettings) -> Entry:
    """Enter the rows of an answer by day.

    The first answer whose values can all be used only says where counting starts. From then on the counter grows by
    the increases of the days' values: today's, and those of the days before that are asked for again.

    Args:
        book: The stream before the answer.
        rows: The answer, by the minute at which each local day starts.
        asked: The days asked for, from the first minute of the first to the last minute of the last.
        through: The minute up to which the answer tells.
        poll: The settings.
    """
    through = max(book.through, through)
    admitted = _admit(book, _within(rows, asked), poll.max_label_values)
    window = whole_minutes(poll.revision_window)
    doubted = doubt(admitted.cells, book.held, largest_plausible(book.target, book.peak), through, window)
    cells = without(admitted.cells, doubted)
    kept_from = max(book.kept_from, asked.first) if book.answered else asked.first
    countable = MinuteRange(kept_from, asked.last)
    held = hold(book.held, doubted, countable)
    # Yesterday began less than this ago, and the day before it earlier, whatever the clocks of the zone do.
    yesterday = asked.last - 5 * DAY_MINUTES // 2
    held, given_up = give_up(held, through, window, yesterday, whole_minutes(poll.max_catch_up))
    if not book.answered and doubted:
        return Entry(through, through, kept_from, admitted.added(book), (), None, held=held, answered=False)
    changes, deltas = [], dict.fromkeys(admitted.accounts, 0)
    for change, delta in _differences(book.slots, cells, countable):
        changes.append(change)
        deltas[change.label] += delta if book.answered else 0
    accounts, begun_again = _changed(book.accounts, admitted.accounts, deltas, through)
    lost = max(0, asked.first - (book.through + 1)) if book.answered else 0
    return Entry(
        through=through,
        seen=max(book.seen, through),
        kept_from=kept_from,
        accounts=accounts,
        changes=tuple(changes),
        last=None,
        peak=_peak(book, changes, cells, anew=bool(begun_again)),
        held=held,
        begun_again=begun_again,
        overflow=admitted.overflow,
        lost=lost + given_up * DAY_MINUTES,
        given_up=given_up * DAY_MINUTES,
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


@dataclass(frozen=True, slots=True)
class _Admitted:
    """An answer by series.

    Attributes:
        cells: The values by the label values of the series.
        accounts: All accounts, new ones last.
        overflow: How many label values have no series of their own.
    """

    cells: Cells
    accounts: Mapping[str, Account]
    overflow: int

    def added(self, book: StreamLedger) -> dict[str, Account]:
        """The accounts that are new."""
        return {label: account for label, account in self.accounts.items() if label not in book.accounts}


def _admit(book: StreamLedger, rows: Rows, most: int) -> _Admitted:
    """Give new label values a series, or put them under `other` where there are enough.

    The API may have a label value `other` of its own: it is counted there, too, and takes nobody's place.
    """
    accounts = dict(book.accounts)
    cells: dict[Minute, dict[str, int | None]] = {}
    overflow = set()
    for slot in sorted(rows):
        values = cells[slot] = {}
        for label, number in rows[slot].items():
            name, value = label, to_units(number)
            if label not in accounts:
                if label != OTHER and len(accounts) - (OTHER in accounts) >= most:
                    overflow.add(label)
                    # An average of averages is not one: those beyond the limit are left out.
                    if book.target is Target.AVERAGE_PLAY_TIME:
                        continue
                    name = OTHER
                # What has never had a value takes nobody's place.
                if value is not None:
                    accounts.setdefault(name, Account())
            values[name] = _sum(values[name], value) if name in values else value
    return _Admitted(cells, accounts, len(overflow))


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None or one + other > LARGEST else one + other


def _differences(
    before: Mapping[Minute, Mapping[str, int]], after: Cells, within: MinuteRange
) -> Iterator[tuple[Change, int]]:
    nothing: Mapping[str, int] = {}
    for slot in sorted(before.keys() | after.keys()):
        if slot not in within:
            continue
        old, new = before.get(slot, nothing), after.get(slot, nothing)
        for label in (*new, *(label for label in old if label not in new)):
            value = new.get(label, 0)
            # What waits changes nothing of what was counted before.
            if value is None:
                continue
            delta = value - old.get(label, 0)
            if delta:
                yield Change(slot, label, value), delta


def _changed(
    before: Mapping[str, Account], accounts: Mapping[str, Account], deltas: Mapping[str, int], through: Minute
) -> tuple[dict[str, Account], dict[str, int]]:
    """The accounts that are new or changed, and what those owed that begin again."""
    changed, begun_again = {}, {}
    for label, account in accounts.items():
        # A rise and a fall in one answer are set off against each other first: less is owed for less long.
        after = account.changed(deltas[label], through)
        anew = after.begun_again(deltas[label] - account.owed, through)
        if anew is not None:
            begun_again[label] = after.owed
            after = anew
        if label not in before or after != account:
            changed[label] = after
    return changed, begun_again


def _usual(cells: Cells) -> int:
    """What a minute usually has, by an answer that is the first: its past is all that is known of the stream."""
    known = ([value for value in values.values() if value is not None] for values in cells.values())
    largest = [max(values) for values in known if values]
    # Of a few rows, a wrong one could be the middle one.
    return median_low(largest) if len(largest) >= FEW_ROWS else 0


def _peak(book: StreamLedger, changes: Iterable[Change], cells: Cells, *, anew: bool) -> int:
    """The largest value that has been counted; what the API took back in the end is not believed any more."""
    if anew:
        return max((value for values in cells.values() for value in values.values() if value is not None), default=0)
    return max(book.peak, max((change.value for change in changes), default=0))


def _rate(book: StreamLedger, cells: Cells, new: MinuteRange) -> float | None:
    """An exponential mean of the plays a minute, to know which streams to ask for most."""
    if book.target is not Target.PLAY_COUNT:
        return None
    plays = []
    for minute in range(new.first, new.last + 1):
        known = [value for value in cells.get(minute, {}).values() if value is not None]
        # A minute of which something waits says nothing.
        if len(known) == len(cells.get(minute, {})):
            plays.append(from_units(sum(known)))
    rate = book.rate
    if rate is None:
        return fmean(plays) if plays else None
    for value in plays:
        rate += (value - rate) / RATE_MINUTES
    return rate


def _values_of(minute: Minute, cells: Cells, accounts: Mapping[str, Account]) -> dict[str, int | None]:
    values = cells.get(minute, {})
    return {label: values.get(label, 0) for label in accounts}
