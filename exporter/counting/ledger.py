"""The ledger: what has been counted, stored in the state file and published as snapshots.

Each answer is counted in one transaction, and published after the commit. A kill at any moment leaves the state file
before or after an answer, and no scrape has seen a number that is not in it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog

from exporter.config.settings import Settings
from exporter.counting import ledger_rows
from exporter.counting.accounts import Entry, StreamRow
from exporter.counting.ledger_rows import MerchantRow
from exporter.counting.rebase import rebase_horizon, rebase_stream, shift_start
from exporter.counting.rules import count_days, count_minutes
from exporter.counting.windows import (
    days_to_ask,
    ended_before,
    minutes_to_ask,
    newest_settled,
    whole_minutes,
)
from exporter.errors import Removed
from exporter.model import DAY_MINUTES, MINUTE, OTHER, Group, Minute, MinuteRange, Rows, Stream, Target, start_of
from exporter.planning.priorities import Plays
from exporter.storage.state import State
from exporter.times import format_instant
from exporter.units import from_units
from exporter.views import MerchantView, Series, Snapshot, StreamView

log = structlog.get_logger("ledger")

# Seconds for which the state of removed merchants and media is kept, so that a mistake in the configuration loses
# nothing.
KEEP_REMOVED = 7 * DAY_MINUTES * MINUTE

# Seconds for which a new counter exposes its 0. A scrape a minute sees it, so `increase()` sees all that follows.
SHOW_ZERO = 60.0

# Seconds for which the longest range that the API has accepted is taken as its limit.
BELIEVE_RANGE = DAY_MINUTES * MINUTE


@dataclass(frozen=True, slots=True)
class _Zeros:
    """Series of one stream whose 0 has been exposed since an instant (Unix seconds)."""

    since: float
    stream: Stream
    labels: tuple[str, ...]


class Ledger:
    """All streams of the configuration and what they have counted. Thread-safe."""

    def __init__(
        self,
        state: State,
        settings: Settings,
        on_revision: Callable[[float], None],
        on_view: Callable[[StreamView], object] = lambda _: None,
    ) -> None:
        """Create a ledger that publishes nothing before `configure`.

        Args:
            state: The state file.
            settings: The configuration.
            on_revision: Called for each revision with the age of its minute (seconds).
            on_view: Called with each view of a stream before a snapshot has it.
        """
        self._state = state
        self._zone = settings.api.timezone
        self._poll = settings.poll
        self._on_revision = on_revision
        self._on_view = on_view
        self._mutex = threading.Lock()
        self._rows: dict[Stream, StreamRow] = {}
        self._merchants: dict[str, MerchantRow] = {}
        self._views: dict[str, dict[Stream, StreamView]] = {}
        self._plays: dict[str, dict[str, Plays]] = {}
        # Number of held values by merchant.
        self._held: dict[str, int] = {}
        # Streams whose warning was logged: once in this process, or once while they have held values.
        self._logged_overflow: set[Stream] = set()
        self._logged_expired: set[Stream] = set()
        self._logged_implausible: set[Stream] = set()
        self._zeros: list[_Zeros] = []
        self._snapshot = Snapshot()

    @property
    def snapshot(self) -> Snapshot:
        """What is counted and committed, without the catalog's part. Replaced as a whole, never changed."""
        return self._snapshot

    def configure(self, settings: Settings, now: float) -> None:
        """Count the streams of a configuration: load or create the new ones, and remove the others.

        What was there before goes on undisturbed. Safe while answers are entered: those for removed streams raise
        `Removed`.

        Raises:
            StateWriteFailed: The state file could not be written; nothing has changed.
        """
        streams = {merchant.id: merchant.streams() for merchant in settings.merchants}
        with self._mutex:
            rows: dict[Stream, StreamRow] = {}
            begun: dict[Stream, tuple[Series, tuple[str, ...]]] = {}
            merchants = {}
            with self._state.transaction() as db:
                for merchant_id, wanted in streams.items():
                    known_merchant = self._merchants.get(merchant_id)
                    of_merchant = known_merchant or ledger_rows.begin_merchant(db, merchant_id)
                    merchants[merchant_id] = of_merchant
                    start = ended_before(now, settings.poll.settle)
                    if of_merchant.horizon is not None:
                        start = newest_settled(now, of_merchant.horizon, settings.poll)
                    for stream in wanted:
                        known = self._rows.get(stream)
                        row = rows[stream] = known or ledger_rows.begin_stream(db, stream, start)
                        if known is None:
                            series = ledger_rows.read_series(db, stream, row)
                            begun[stream] = series, ledger_rows.unshown_labels(db, row.stream_id)
                ledger_rows.mark_removed(db, rows, merchants, now)
                ledger_rows.forget_removed(db, now - KEEP_REMOVED)
            # Committed: scrapes see all merchants at once.
            self._zone, self._poll = settings.api.timezone, settings.poll
            # Whoever finds a stream, finds its merchant: those of removed streams go last.
            self._merchants = {**self._merchants, **merchants}
            self._rows = rows
            self._merchants = merchants
            self._held = {
                merchant_id: sum(len(rows[each].held) for each in streams[merchant_id]) for merchant_id in streams
            }
            self._zeros = [each for each in self._zeros if each.stream in rows]
            views, plays = self._views, self._plays
            self._views = {merchant_id: {} for merchant_id in streams}
            self._plays = {merchant_id: {} for merchant_id in streams}
            for merchant in settings.merchants:
                before = plays.get(merchant.id, {})
                media = ("", *(each.id for each in merchant.media))
                self._plays[merchant.id] = {media_id: before.get(media_id, Plays()) for media_id in media}
                for stream in streams[merchant.id]:
                    if stream in begun:
                        series, unshown = begun[stream]
                        self._show(stream, rows[stream], series)
                        self._expose_zeros(stream, unshown, now)
                    else:
                        self._views[merchant.id][stream] = views[merchant.id][stream]
            views_by_merchant = {merchant_id: self._view(merchant_id) for merchant_id in merchants}
            self._snapshot = Snapshot(MappingProxyType(views_by_merchant))

    def correct_start(self, seconds: float, now: float) -> None:
        """Correct the start of streams that have had no answer yet, after the machine's clock proved wrong.

        Args:
            seconds: How far the machine's clock is behind the API's.
            now: The API's time (Unix seconds).

        Raises:
            StateWriteFailed: The state file could not be written.
        """
        minutes, complete = round(seconds / MINUTE), ended_before(now, self._poll.settle)
        with self._mutex:
            moved = {
                stream: shift_start(row, minutes)
                for stream, row in self._rows.items()
                # A stream whose new start would be in the future, or whose start is not ahead of a clock that was
                # too fast, was created while the clock was right.
                if not row.answered and row.start + minutes <= complete and (minutes > 0 or row.start > complete)
            }
            with self._state.transaction() as db:
                for row in moved.values():
                    ledger_rows.write_stream(db, row)
            self._rows.update(moved)

    def settled(self, merchant_id: str, now: float) -> Minute:
        """The merchant's newest settled minute. Raises Removed where the configuration does not have it any more."""
        try:
            merchant = self._merchants[merchant_id]
        except KeyError:
            raise Removed(merchant_id) from None
        return newest_settled(now, merchant.horizon, self._poll)

    def through(self, stream: Stream) -> Minute:
        """The newest minute that a stream has counted; before its first answer, the minute before its first one."""
        return self._rows[stream].through

    def seen(self, stream: Stream) -> Minute:
        """The newest minute that a stream has counted because the API returned a row for it or for a later one.

        Raises as `to_ask` does.
        """
        return self._row(stream).seen

    def held(self, stream: Stream) -> frozenset[Minute]:
        """The buckets with a held value. Raises as `to_ask` does."""
        return frozenset(bucket for bucket, _ in self._row(stream).held)

    def plays(self, merchant_id: str) -> dict[str, Plays]:
        """The plays of all media by media id, "" for the whole merchant."""
        return dict(self._plays[merchant_id])

    def to_ask(self, stream: Stream, now: float, longest: int | None = None) -> MinuteRange:
        """The range to ask for next, of at most `longest` minutes, or else as long as the API is known to accept.

        Raises:
            Removed: The configuration does not have the stream any more.
        """
        row, merchant = self._rebased(stream, now)
        if stream.target.by_day:
            return days_to_ask(row.through, now, self._zone, self._poll, row.oldest_held)
        believed = 0 <= now - merchant.longest_range_at < BELIEVE_RANGE
        longest = longest or (merchant.longest_range if believed else None)
        return minutes_to_ask(
            row.through, row.seen, merchant.horizon, now, self._poll, longest, row.oldest_held, self._zone
        )

    def enter(self, stream: Stream, asked: MinuteRange, rows: Rows, now: float) -> None:
        """Count an answer.

        Raises:
            StateWriteFailed: Nothing of the answer is counted; it can be asked for again.
            Removed: The configuration does not have the stream any more.
        """
        with self._mutex:
            row, merchant = self._rebased(stream, now)
            ahead = self._rows[stream].through - row.through
            with self._state.transaction() as db:
                before = ledger_rows.read_ledger(db, stream, row)
                if stream.target.by_day:
                    horizon = merchant.horizon
                    entry = count_days(before, rows, asked, ended_before(now, self._poll.settle), self._poll)
                else:
                    horizon = _horizon(merchant.horizon, asked, rows)
                    entry = count_minutes(before, rows, asked, now, horizon, self._poll, self._zone)
                if entry.row != self._rows[stream]:
                    ledger_rows.write_stream(db, entry.row)
                ledger_rows.write_entry(db, before, entry)
                series = ledger_rows.read_series(db, stream, entry.row)
                merchant_row = _after(merchant, horizon, entry)
                if merchant_row != self._merchants[stream.merchant_id]:
                    ledger_rows.write_merchant(db, stream.merchant_id, merchant_row)
            # Committed: from here on it may be published.
            self._rows[stream], self._merchants[stream.merchant_id] = entry.row, merchant_row
            self._held[stream.merchant_id] += len(entry.row.held) - len(row.held)
            new = tuple(label for label in entry.accounts if label not in before.accounts)
            self._expose_zeros(stream, (*new, *entry.resets), now)
            self._show(stream, entry.row, series)
            self._publish(stream.merchant_id)
        if not stream.media_id and ahead > whole_minutes(self._poll.max_lag):
            # The streams of the media are as far ahead. One line is enough.
            log.warning(
                "the state file was ahead of the API's time because a clock was wrong; counting continues from now",
                merchant=stream.merchant_id,
                minutes_ahead=ahead,
            )
        self._log(stream, entry)
        for revision in entry.revisions:
            self._on_revision(revision.age)

    def believe_range(self, merchant_id: str, longest: int, now: float) -> None:
        """Remember how many minutes the API accepts in one request."""
        with self._mutex:
            if merchant_id not in self._merchants:
                return
            row = replace(self._merchants[merchant_id], longest_range=longest, longest_range_at=now)
            with self._state.transaction() as db:
                ledger_rows.write_merchant(db, merchant_id, row)
            self._merchants[merchant_id] = row

    def show_counted(self, now: float) -> None:
        """Expose the values of counters whose 0 has been exposed for a minute.

        This is written first: a counter that was scraped above 0 must not be 0 again after a kill.
        """
        with self._mutex:
            # A clock that is set back must not delay them.
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
                self._put(replace(self._views[stream.merchant_id][stream], series=series))
            for merchant_id in {stream.merchant_id for stream in views}:
                self._publish(merchant_id)

    def _rebased(self, stream: Stream, now: float) -> tuple[StreamRow, MerchantRow]:
        """The rows of a stream and its merchant, without minutes that are in the future at `now` (Unix seconds)."""
        complete, max_lag = ended_before(now, self._poll.settle), self._poll.max_lag
        row, before = self._row(stream), self._merchants[stream.merchant_id]
        merchant = replace(before, horizon=rebase_horizon(before.horizon, complete, max_lag))
        settled = newest_settled(now, merchant.horizon, self._poll)
        return rebase_stream(row, stream.target, complete, settled, before.horizon, max_lag), merchant

    def _row(self, stream: Stream) -> StreamRow:
        try:
            return self._rows[stream]
        except KeyError:
            raise Removed(str(stream)) from None

    def _log(self, stream: Stream, entry: Entry) -> None:
        which = {"merchant": stream.merchant_id, "stream": str(stream)}
        if entry.overflow and stream not in self._logged_overflow:
            self._logged_overflow.add(stream)
            log.warning(
                f"a stream has more label values than max_label_values; further ones are counted as '{OTHER}'",
                **which,
                max_label_values=self._poll.max_label_values,
            )
        implausible = {cell: each.value for cell, each in entry.row.held.items() if each.value is not None}
        if implausible and stream not in self._logged_implausible:
            self._logged_implausible.add(stream)
            (bucket, label), value = min(implausible.items())
            log.warning(
                "an implausible value is held; it is counted once the API has returned it for poll.revision_window",
                **which,
                label=label,
                minute=format_instant(start_of(bucket)),
                value=from_units(value),
            )
        if not entry.row.held:
            self._logged_expired.discard(stream)
            self._logged_implausible.discard(stream)
        if entry.expired and stream not in self._logged_expired:
            self._logged_expired.add(stream)
            log.warning(
                "minutes are lost: the API returned unusable values for them for too long; "
                "if they matter, compare the counter with the vendor's console",
                **which,
                minutes=entry.expired,
            )
        if entry.resets:
            log.warning(
                "counters are reset to 0: the API lowered counted values by more than the plays of the next day",
                **which,
                counters=len(entry.resets),
                owed=from_units(sum(entry.resets.values())),
            )

    def _show(self, stream: Stream, row: StreamRow, series: Series) -> None:
        """Let the next snapshot, and `plays`, have what a stream has counted."""
        through = row.through if row.answered else None
        self._put(StreamView(stream, through, series))
        if stream.target is Target.PLAY_COUNT and stream.group is Group.ALL and row.rate is not None:
            last = series[0].last
            # Without a value for the newest minute, assume no change.
            plays = Plays(row.rate, row.rate if last is None else last, row.through)
            self._plays[stream.merchant_id][stream.media_id] = plays

    def _put(self, view: StreamView) -> None:
        self._on_view(view)
        self._views[view.stream.merchant_id][view.stream] = view

    def _expose_zeros(self, stream: Stream, labels: tuple[str, ...], now: float) -> None:
        if labels and stream.target.summable:
            self._zeros.append(_Zeros(now, stream, labels))

    def _publish(self, merchant_id: str) -> None:
        views = {**self._snapshot.merchants, merchant_id: self._view(merchant_id)}
        self._snapshot = Snapshot(MappingProxyType(views))

    def _view(self, merchant_id: str) -> MerchantView:
        row = self._merchants[merchant_id]
        return MerchantView(
            merchant_id=merchant_id,
            horizon=row.horizon,
            lost_minutes=row.lost_minutes,
            revisions_up=row.revisions_up,
            revisions_down=row.revisions_down,
            series_resets=row.series_resets,
            held_values=self._held[merchant_id],
            streams=MappingProxyType(dict(self._views[merchant_id])),
        )


def _horizon(before: Minute | None, asked: MinuteRange, rows: Rows) -> Minute | None:
    # A row that was not asked for, such as that of the current minute, does not show that minutes are complete.
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
        series_resets=merchant.series_resets + len(entry.resets),
    )
