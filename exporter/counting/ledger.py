"""The ledger: what has been counted, kept in the state file, shown as snapshots.

One answer is entered in one transaction, and shown after it has committed. So a kill at any moment leaves the
file at one answer or the next, and nobody has seen a number that is not in it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog

from exporter.config.settings import MerchantSettings, Settings
from exporter.counting import ledger_rows
from exporter.counting.ledger_rows import MerchantRow, StreamRow
from exporter.counting.rebase import rebase_horizon, rebase_stream, shift_start
from exporter.counting.rules import (
    Entry,
    count_days,
    count_minutes,
    days_to_ask,
    ended_before,
    minutes_to_ask,
    newest_settled,
    whole_minutes,
)
from exporter.model import DAY_MINUTES, MINUTE, OTHER, Group, Minute, MinuteRange, Rows, Stream, Target, start_of
from exporter.planning.priorities import Plays
from exporter.storage.state import State
from exporter.times import format_instant
from exporter.units import from_units
from exporter.views import MerchantView, SeriesView, Snapshot, StreamView

log = structlog.get_logger("ledger")

# How long the state of what left the configuration is kept: a mistake in the file costs nothing.
KEEP_REMOVED = 7 * DAY_MINUTES * MINUTE

# How long a new counter shows its 0: a scrape a minute sees it, and `increase()` all that follows.
SHOW_ZERO = 60.0

# How long a range that the API took after it refused a longer one is believed to be its limit.
BELIEVE_RANGE = DAY_MINUTES * MINUTE


@dataclass(frozen=True, slots=True)
class _Zeros:
    """Series of one stream whose 0 is on display since a moment (Unix seconds)."""

    since: float
    stream: Stream
    labels: tuple[str, ...]


class Ledger:
    """All streams of the configuration, with what they have counted. Safe for use by several threads."""

    def __init__(self, state: State, settings: Settings, on_revision: Callable[[float], None]) -> None:
        """Make a ledger that shows nothing before `sync`.

        Args:
            state: The state file.
            settings: The configuration.
            on_revision: Told of each revision how old its minute was, in seconds.
        """
        self._state = state
        self._zone = settings.api.timezone
        self._poll = settings.poll
        self._on_revision = on_revision
        self._mutex = threading.Lock()
        self._rows: dict[Stream, StreamRow] = {}
        self._merchants: dict[str, MerchantRow] = {}
        self._views: dict[str, dict[Stream, StreamView]] = {}
        self._plays: dict[str, dict[str, Plays]] = {}
        # How many values each merchant holds.
        self._held: dict[str, int] = {}
        # What was told of a stream, and is not told again: in this process, and while it holds values.
        self._told_overflow: set[Stream] = set()
        self._told_given_up: set[Stream] = set()
        self._told_implausible: set[Stream] = set()
        self._zeros: list[_Zeros] = []
        self._snapshot = Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """What is counted and committed; the media are left for the catalog to fill in."""
        return self._snapshot

    def sync(self, merchants: tuple[MerchantSettings, ...], now: float) -> None:
        """Begin new streams, take up those of the state file, and let go of those that nobody wants any more.

        Raises:
            StateWriteFailed: The state file did not take it.
        """
        with self._mutex, self._state.transaction() as db:
            self._rows, self._merchants, self._views, self._plays, self._zeros = {}, {}, {}, {}, []
            self._held = {merchant.id: 0 for merchant in merchants}
            for merchant in merchants:
                row = self._merchants[merchant.id] = ledger_rows.begin_merchant(db, merchant.id)
                start = ended_before(now, self._poll.settle)
                if row.horizon is not None:
                    start = newest_settled(now, row.horizon, self._poll)
                views = self._views[merchant.id] = {}
                self._plays[merchant.id] = {
                    media_id: Plays() for media_id in ("", *(each.id for each in merchant.media))
                }
                for stream in merchant.streams():
                    stream_row = self._rows[stream] = ledger_rows.begin_stream(db, stream, start)
                    views[stream] = StreamView(
                        stream=stream,
                        through=stream_row.through if stream_row.answered else None,
                        series=ledger_rows.read_series(db, stream, stream_row),
                    )
                    self._held[merchant.id] += len(stream_row.held)
                    self._know_plays(stream, stream_row, views[stream].series)
                    self._await_zeros(stream, ledger_rows.unshown_labels(db, stream_row.stream_id), now)
            ledger_rows.mark_removed(db, self._rows, self._merchants, now)
            ledger_rows.forget_removed(db, now - KEEP_REMOVED)
        self._snapshot = Snapshot()
        for merchant_id in self._merchants:
            self._show(merchant_id)

    def correct_start(self, seconds: float, now: float) -> None:
        """Begin the streams that have had no answer when they would have, had the clock been right.

        Args:
            seconds: By how much the machine's clock is behind the API's.
            now: The API's time.

        Raises:
            StateWriteFailed: The state file did not take it.
        """
        minutes, complete = round(seconds / MINUTE), ended_before(now, self._poll.settle)
        with self._mutex:
            moved = {
                stream: shift_start(row, minutes)
                for stream, row in self._rows.items()
                # A stream that would begin in the future now, or that does not yet, began by a clock that was right.
                if not row.answered and row.start + minutes <= complete and (minutes > 0 or row.start > complete)
            }
            with self._state.transaction() as db:
                for row in moved.values():
                    ledger_rows.move_stream(db, row)
            self._rows.update(moved)

    def settled(self, merchant_id: str, now: float) -> Minute:
        """The merchant's newest settled minute."""
        return newest_settled(now, self._merchants[merchant_id].horizon, self._poll)

    def through(self, stream: Stream) -> Minute:
        """The newest minute that a stream has counted; before its first answer, the one after which it counts."""
        return self._rows[stream].through

    def seen(self, stream: Stream) -> Minute:
        """The newest minute that a stream has counted because its row or a later one was there."""
        return self._rows[stream].seen

    def held(self, stream: Stream) -> frozenset[Minute]:
        """The minutes or days of which a value is not counted yet."""
        return frozenset(self._rows[stream].held)

    def plays(self, merchant_id: str) -> dict[str, Plays]:
        """What is known of the plays of all media, and with the id "" of the whole merchant's, by media id."""
        return dict(self._plays[merchant_id])

    def to_ask(self, stream: Stream, now: float, longest: int | None = None) -> MinuteRange:
        """The range to ask for next, of at most `longest` minutes; without it, as long as the API is known to take."""
        row, merchant = self._rebased(stream, now)
        held = row.held[0] if row.held else None
        if stream.target.by_day:
            return days_to_ask(row.through, now, self._zone, self._poll, held)
        believed = 0 <= now - merchant.longest_range_at < BELIEVE_RANGE
        longest = longest or (merchant.longest_range if believed else None)
        return minutes_to_ask(
            row.through, row.seen, merchant.horizon, now, self._poll, longest, held=held, zone=self._zone
        )

    def enter(self, stream: Stream, asked: MinuteRange, rows: Rows, now: float) -> None:
        """Count an answer.

        Raises:
            StateWriteFailed: Nothing of it is counted; the same rows can be asked for again.
        """
        with self._mutex:
            row, merchant = self._rebased(stream, now)
            ahead = self._rows[stream].through - row.through
            with self._state.transaction() as db:
                if row != self._rows[stream]:
                    ledger_rows.move_stream(db, row)
                book = ledger_rows.read_book(db, stream, row)
                if stream.target.by_day:
                    horizon = merchant.horizon
                    entry = count_days(book, rows, asked, ended_before(now, self._poll.settle), self._poll)
                else:
                    horizon = _horizon(merchant.horizon, asked, rows)
                    entry = count_minutes(book, rows, asked, now, horizon, self._poll, self._zone)
                written = ledger_rows.write_entry(db, row, book, entry)
                series = ledger_rows.read_series(db, stream, written)
                merchant_row = _after(merchant, horizon, entry)
                if merchant_row != self._merchants[stream.merchant_id]:
                    ledger_rows.write_merchant(db, stream.merchant_id, merchant_row)
            # Committed: from here on it may be shown.
            self._rows[stream], self._merchants[stream.merchant_id] = written, merchant_row
            self._held[stream.merchant_id] += len(written.held) - len(row.held)
            new = tuple(label for label in entry.accounts if label not in book.accounts)
            self._await_zeros(stream, (*new, *entry.begun_again), now)
            through = written.through if written.answered else None
            self._views[stream.merchant_id][stream] = StreamView(stream, through, series)
            self._know_plays(stream, written, series)
            self._show(stream.merchant_id)
        if not stream.media_id and ahead > whole_minutes(self._poll.max_lag):
            # The media's streams are as far ahead. One line is enough.
            log.warning(
                "the state file was ahead of the API's time, because a clock was wrong; counting goes on from now",
                merchant=stream.merchant_id,
                minutes_ahead=ahead,
            )
        self._tell(stream, entry)
        for revision in entry.revisions:
            self._on_revision(revision.age)

    def believe_range(self, merchant_id: str, longest: int, now: float) -> None:
        """Remember how many minutes the API takes in one request."""
        with self._mutex:
            row = replace(self._merchants[merchant_id], longest_range=longest, longest_range_at=now)
            with self._state.transaction() as db:
                ledger_rows.write_merchant(db, merchant_id, row)
            self._merchants[merchant_id] = row

    def show_counted(self, now: float) -> None:
        """Let the counters whose 0 has been on display for a minute show what they have counted.

        That they may is written first: one that was seen above 0 must not be 0 again after a kill.
        """
        with self._mutex:
            # A clock that steps back must not hold them for longer.
            due: list[_Zeros] = []
            waiting: list[_Zeros] = []
            for zeros in self._zeros:
                (waiting if 0 <= now - zeros.since < SHOW_ZERO else due).append(zeros)
            if not due:
                return
            views = {}
            with self._state.transaction() as db:
                for zeros in due:
                    ledger_rows.show_series(db, self._rows[zeros.stream].stream_id, zeros.labels)
                for stream in {zeros.stream for zeros in due}:
                    views[stream] = ledger_rows.read_series(db, stream, self._rows[stream])
            self._zeros = waiting
            for stream, series in views.items():
                streams = self._views[stream.merchant_id]
                streams[stream] = replace(streams[stream], series=series)
            for merchant_id in {stream.merchant_id for stream in views}:
                self._show(merchant_id)

    def _rebased(self, stream: Stream, now: float) -> tuple[StreamRow, MerchantRow]:
        """Where a stream and its merchant stand, without minutes that have not been yet at a moment (Unix seconds)."""
        complete, max_lag = ended_before(now, self._poll.settle), self._poll.max_lag
        merchant = self._merchants[stream.merchant_id]
        merchant = replace(merchant, horizon=rebase_horizon(merchant.horizon, complete, max_lag))
        settled = newest_settled(now, merchant.horizon, self._poll)
        row = rebase_stream(
            self._rows[stream], stream.target, complete, settled, self._merchants[stream.merchant_id].horizon, max_lag
        )
        return row, merchant

    def _tell(self, stream: Stream, entry: Entry) -> None:
        which = {"merchant": stream.merchant_id, "stream": str(stream)}
        if entry.overflow and stream not in self._told_overflow:
            self._told_overflow.add(stream)
            log.warning(
                f"a stream has more label values than max_label_values; what comes later is counted as '{OTHER}'",
                **which,
                max_label_values=self._poll.max_label_values,
            )
        implausible = {cell: each.value for cell, each in entry.held.items() if each.value is not None}
        if implausible and stream not in self._told_implausible:
            self._told_implausible.add(stream)
            (slot, label), value = min(implausible.items())
            log.warning(
                "a value is implausible: it is counted when the API has shown it for poll.revision_window",
                **which,
                label=label,
                minute=format_instant(start_of(slot)),
                value=from_units(value),
            )
        if not entry.held:
            self._told_given_up.discard(stream)
            self._told_implausible.discard(stream)
        if entry.given_up and stream not in self._told_given_up:
            self._told_given_up.add(stream)
            log.warning(
                "values of the API could not be used for so long that their minutes are lost; "
                "correct the counter by the vendor's console where it matters",
                **which,
                minutes=entry.given_up,
            )
        if entry.begun_again:
            log.warning(
                "counters begin again at 0: the API took back more than came in a day since",
                **which,
                counters=len(entry.begun_again),
                owed=from_units(sum(entry.begun_again.values())),
            )

    def _know_plays(self, stream: Stream, row: StreamRow, series: tuple[SeriesView, ...]) -> None:
        if stream.target is Target.PLAY_COUNT and stream.group is Group.ALL and row.rate is not None:
            last = series[0].last
            # Where the newest minute is not known, nothing is taken to have changed.
            plays = Plays(row.rate, row.rate if last is None else last, row.through)
            self._plays[stream.merchant_id][stream.media_id] = plays

    def _await_zeros(self, stream: Stream, labels: tuple[str, ...], now: float) -> None:
        if labels and stream.target.summable:
            self._zeros.append(_Zeros(now, stream, labels))

    def _show(self, merchant_id: str) -> None:
        row = self._merchants[merchant_id]
        view = MerchantView(
            merchant_id=merchant_id,
            horizon=row.horizon,
            lost_minutes=row.lost_minutes,
            revisions_up=row.revisions_up,
            revisions_down=row.revisions_down,
            series_resets=row.series_resets,
            held_values=self._held[merchant_id],
            streams=MappingProxyType(dict(self._views[merchant_id])),
        )
        self._snapshot = Snapshot(MappingProxyType({**self._snapshot.merchants, merchant_id: view}))


def _horizon(before: Minute | None, asked: MinuteRange, rows: Rows) -> Minute | None:
    # Rows that were not asked for (the minute that still runs, say) tell nothing about what is complete.
    shown = max((minute for minute in rows if minute in asked), default=before)
    return shown if before is None or shown is None else max(before, shown)


def _after(merchant: MerchantRow, horizon: Minute | None, entry: Entry) -> MerchantRow:
    rises = sum(revision.up for revision in entry.revisions)
    return replace(
        merchant,
        horizon=horizon,
        lost_minutes=merchant.lost_minutes + entry.lost,
        revisions_up=merchant.revisions_up + rises,
        revisions_down=merchant.revisions_down + len(entry.revisions) - rises,
        series_resets=merchant.series_resets + len(entry.begun_again),
    )
