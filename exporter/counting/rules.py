"""How an answer is counted: from a stream's ledger and rows to the entry that changes it. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from statistics import fmean, median_low

from exporter.config.settings import PollSettings
from exporter.counting.accounts import Account, Change, Entry, Revision, StreamLedger
from exporter.counting.held import Cells, expire, largest_plausible, to_hold, update_held, without
from exporter.counting.windows import ended_before, newest_settled, whole_minutes
from exporter.localtime import with_whole_repeat
from exporter.model import DAY_MINUTES, OTHER, Minute, MinuteRange, Rows, Target, end_of
from exporter.units import LARGEST, from_units, to_units

# Time constant of the smoothed plays a minute: half of a rise shows after 14 minutes.
RATE_MINUTES = 20

# From this many rows on, the median of a first answer says what is usual.
FEW_ROWS = 10


def count_minutes(
    before: StreamLedger,
    rows: Rows,
    asked: MinuteRange,
    now: float,
    horizon: Minute | None,
    poll: PollSettings,
    zone: tzinfo = UTC,
) -> Entry:
    """Count the rows of an answer by minute.

    Args:
        before: The stream's ledger before the answer.
        rows: The answer.
        asked: The minutes asked for; rows outside of them are ignored.
        now: When the answer came (Unix seconds).
        horizon: The newest minute for which the merchant has had a row, this answer included.
        poll: The settings.
        zone: The time zone of the API. A repeated hour can be revised as long as a part of it can.
    """
    row = before.row
    upto = min(newest_settled(now, horizon, poll), asked.last)
    lost = max(0, asked.first - (row.through + 1))
    counted = row.through + lost
    through = max(counted, upto)
    admitted = _admit(before, rows, asked, poll.max_label_values)
    seen = row.seen
    reachable = max(seen, ended_before(now, poll.settle) - whole_minutes(poll.max_catch_up))
    # An answer that starts after minutes counted as empty does not cover them.
    if horizon is not None and asked.first <= reachable + 1:
        seen = max(seen, min(through, horizon, asked.last))
    window = whole_minutes(poll.revision_window)
    revisable = with_whole_repeat(seen - window, zone)
    moved = replace(row, through=through, seen=seen, kept_from=max(row.kept_from, revisable), answered=True)
    if not before.target.summable:
        last = _values_of(through, admitted.cells, admitted.accounts) if through <= upto else None
        return Entry(moved, admitted.added(before), (), last, overflow=admitted.overflow, lost=lost)
    known_peak = row.peak if row.answered else _usual(admitted.cells)
    countable = MinuteRange(max(asked.first, row.kept_from, row.start + 1), upto)
    found = to_hold(admitted.cells, row.held, largest_plausible(before.target, known_peak), through, window)
    cells = without(admitted.cells, found)
    held = update_held(row.held, found, countable)
    held, expired = expire(held, through, window, revisable, whole_minutes(poll.max_catch_up))
    # Held values can still be counted, so everything from the oldest of them on can still be revised.
    kept_from = max(row.kept_from, min([moved.kept_from, *(bucket for bucket, _ in held)]))
    changes, deltas, revisions = [], dict.fromkeys(admitted.accounts, 0), []
    for change, delta in _differences(before.buckets, cells, countable):
        changes.append(change)
        deltas[change.label] += delta
        if change.bucket <= counted and (change.bucket, change.label) not in row.held:
            revisions.append(Revision(age=now - end_of(change.bucket), up=delta > 0))
    accounts, resets = _changed(before.accounts, admitted.accounts, deltas, through)
    return Entry(
        row=replace(
            moved,
            kept_from=kept_from,
            rate=_rate(before, cells, MinuteRange(counted + 1 if row.answered else asked.first, upto)),
            peak=_peak(known_peak, changes, cells, reset=bool(resets)),
            held=held,
        ),
        accounts=accounts,
        changes=tuple(change for change in changes if change.bucket >= kept_from),
        last=_values_of(through, cells, admitted.accounts) if through <= upto else None,
        revisions=tuple(revisions),
        resets=resets,
        overflow=admitted.overflow,
        lost=lost + expired,
        expired=expired,
    )


def count_days(before: StreamLedger, rows: Rows, asked: MinuteRange, through: Minute, poll: PollSettings) -> Entry:
    """Count the rows of an answer by day.

    The first answer in which all values are usable only sets where counting starts. After that, the counter rises with
    the values of today and of the days before it that are asked for again.

    Args:
        before: The stream's ledger before the answer.
        rows: The answer, by the minute at which each local day starts.
        asked: The days asked for, from the first minute of the first to the last minute of the last.
        through: The newest minute that the answer covers.
        poll: The settings.
    """
    row = before.row
    through = max(row.through, through)
    admitted = _admit(before, rows, asked, poll.max_label_values)
    window = whole_minutes(poll.revision_window)
    found = to_hold(admitted.cells, row.held, largest_plausible(before.target, row.peak), through, window)
    cells = without(admitted.cells, found)
    kept_from = max(row.kept_from, asked.first) if row.answered else asked.first
    countable = MinuteRange(kept_from, asked.last)
    held = update_held(row.held, found, countable)
    # Yesterday started less than this ago, and the day before it earlier, also when the clocks change.
    yesterday = asked.last - 5 * DAY_MINUTES // 2
    held, expired = expire(held, through, window, yesterday, whole_minutes(poll.max_catch_up))
    moved = replace(row, through=through, seen=max(row.seen, through), kept_from=kept_from, held=held)
    if not row.answered and found:
        return Entry(moved, admitted.added(before), (), None)
    changes, deltas = [], dict.fromkeys(admitted.accounts, 0)
    for change, delta in _differences(before.buckets, cells, countable):
        changes.append(change)
        deltas[change.label] += delta if row.answered else 0
    accounts, resets = _changed(before.accounts, admitted.accounts, deltas, through)
    lost = max(0, asked.first - (row.through + 1)) if row.answered else 0
    return Entry(
        row=replace(moved, answered=True, peak=_peak(row.peak, changes, cells, reset=bool(resets))),
        accounts=accounts,
        changes=tuple(changes),
        last=None,
        resets=resets,
        overflow=admitted.overflow,
        lost=lost + expired * DAY_MINUTES,
        expired=expired * DAY_MINUTES,
    )


@dataclass(frozen=True, slots=True)
class _Admitted:
    """An answer by series.

    Attributes:
        cells: The values by bucket and label value of the series.
        accounts: All accounts, new ones last.
        overflow: Number of label values without a series of their own.
    """

    cells: Cells
    accounts: Mapping[str, Account]
    overflow: int

    def added(self, before: StreamLedger) -> dict[str, Account]:
        """The new accounts."""
        return {label: account for label, account in self.accounts.items() if label not in before.accounts}


def _admit(before: StreamLedger, rows: Rows, asked: MinuteRange, most: int) -> _Admitted:
    """Give new label values a series, or count them as `other` once the stream has its maximum of series.

    A label value `other` of the API is counted there, too, and does not use up a series.
    """
    accounts = dict(before.accounts)
    cells: dict[Minute, dict[str, int | None]] = {}
    overflow = set()
    for bucket in sorted(bucket for bucket in rows if bucket in asked):
        values = cells[bucket] = {}
        for label, number in rows[bucket].items():
            name, value = label, to_units(number)
            if label not in accounts:
                if label != OTHER and len(accounts) - (OTHER in accounts) >= most:
                    overflow.add(label)
                    # Averages cannot be added up: those beyond the limit are left out.
                    if before.target is Target.AVERAGE_PLAY_TIME:
                        continue
                    name = OTHER
                # A label value without a usable value does not use up a series.
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
    for bucket in sorted(before.keys() | after.keys()):
        if bucket not in within:
            continue
        old, new = before.get(bucket, nothing), after.get(bucket, nothing)
        for label in (*new, *(label for label in old if label not in new)):
            value = new.get(label, 0)
            # A held value changes nothing.
            if value is None:
                continue
            delta = value - old.get(label, 0)
            if delta:
                yield Change(bucket, label, value), delta


def _changed(
    before: Mapping[str, Account], accounts: Mapping[str, Account], deltas: Mapping[str, int], through: Minute
) -> tuple[dict[str, Account], dict[str, int]]:
    """The new and the changed accounts, and what the reset ones still owed."""
    changed, resets = {}, {}
    for label, account in accounts.items():
        # A rise and a fall in one answer cancel out first, so that less is owed for a shorter time.
        after = account.changed(deltas[label], through)
        reset = after.reset(deltas[label] - account.owed, through)
        if reset is not None:
            resets[label] = after.owed
            after = reset
        if label not in before or after != account:
            changed[label] = after
    return changed, resets


def _usual(cells: Cells) -> int:
    """The usual value of a bucket, from the first answer: nothing else is known of the stream yet."""
    known = ([value for value in values.values() if value is not None] for values in cells.values())
    largest = [max(values) for values in known if values]
    # The median of a few rows could be a wrong value.
    return median_low(largest) if len(largest) >= FEW_ROWS else 0


def _peak(before: int, changes: Iterable[Change], cells: Cells, *, reset: bool) -> int:
    """The largest counted value. After a reset only this answer counts, because the API has withdrawn the others."""
    if reset:
        return max((value for values in cells.values() for value in values.values() if value is not None), default=0)
    return max(before, max((change.value for change in changes), default=0))


def _rate(before: StreamLedger, cells: Cells, new: MinuteRange) -> float | None:
    """The exponentially smoothed plays a minute, which decide how often a stream is asked for."""
    if before.target is not Target.PLAY_COUNT:
        return None
    plays = []
    for minute in range(new.first, new.last + 1):
        known = [value for value in cells.get(minute, {}).values() if value is not None]
        # A minute with a held value has no known sum.
        if len(known) == len(cells.get(minute, {})):
            plays.append(from_units(sum(known)))
    rate = before.row.rate
    if rate is None:
        return fmean(plays) if plays else None
    for value in plays:
        rate += (value - rate) / RATE_MINUTES
    return rate


def _values_of(minute: Minute, cells: Cells, accounts: Mapping[str, Account]) -> dict[str, int | None]:
    values = cells.get(minute, {})
    return {label: values.get(label, 0) for label in accounts}
