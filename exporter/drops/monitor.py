"""The drop detector at work for one merchant: takes answers, judges after each round, kept in the state file.

The detector's own state is written every few minutes only, in one transaction for all media. A kill costs nothing but
work: the next answers begin a revision window earlier than what was written.
"""

import threading
from collections.abc import Container, Mapping

import structlog

from exporter.config.settings import MerchantSettings, Settings
from exporter.drops.baseline import Baseline
from exporter.drops.baseline_rows import read_baselines, write_baseline
from exporter.drops.judging import Judging, LiveEvents, Standing
from exporter.drops.packed import Packed, RecentMinutes
from exporter.drops.warmup import Warmup, WarmupRequest, past_hours, past_minutes
from exporter.model import (
    Group,
    Minute,
    MinuteRange,
    Rows,
    Stream,
    Target,
    end_of,
    start_of,
    total_of,
)
from exporter.storage.state import State
from exporter.views import Day, Hour, Thresholds, Verdict

log = structlog.get_logger("drops")

SAVE_EVERY = 300.0

# A longer gap between two answers (minutes) is worth a request for what was in it.
LONGEST_GAP = 60


class DropMonitor:
    """The drop detection of one merchant's media and of the whole merchant. Thread-safe.

    Attributes:
        warmup: The history that is still missing.
        thresholds: By media id, "" for the whole merchant; None if its alerts are disabled.
    """

    def __init__(self, state: State, settings: Settings, merchant: MerchantSettings, live_events: LiveEvents) -> None:
        """Load the baselines of the state file.

        Args:
            state: The state file.
            settings: The configuration.
            merchant: Whose media.
            live_events: Which media are live.
        """
        self._state = state
        self._poll = settings.poll
        self._merchant_id = merchant.id
        self._mutex = threading.Lock()
        self._baselines: dict[str, Baseline] = {
            stream.media_id: Baseline() for stream in merchant.streams() if _counts_plays(stream)
        }
        self.thresholds: Mapping[str, Thresholds | None] = {
            "": settings.thresholds(merchant),
            **{media.id: settings.thresholds(merchant, media) for media in merchant.media},
        }
        # What the state file has. To unpack a baseline takes a while, and there may be thousands.
        self._packed: dict[str, Packed] = {}
        self.warmup = Warmup(map(self._stream, self._baselines))
        self._judging = Judging(live_events, self._baselines)
        # Scrapes read it without the mutex, so it is never changed: a new one takes its place.
        self._standing: Mapping[str, Standing] = {}
        # Pages read these without the mutex, so they are never changed: new ones take their place.
        self._recent: dict[str, RecentMinutes] = {}
        self._unsaved: set[str] = set()
        self._saved_at = float("-inf")
        self._load()

    def enter(
        self,
        stream: Stream,
        asked: MinuteRange,
        rows: Rows,
        seen: Minute,
        now: float,
        held: Container[Minute] = frozenset(),
    ) -> None:
        """Take the plays of an answer.

        Args:
            stream: What was asked for; other streams than plays are no matter here.
            asked: The minutes that were asked for.
            rows: The answer.
            seen: The newest minute that is complete because its row or a later one was there. Later ones were at most
                counted as empty, and show no drop.
            now: When it came (Unix seconds).
            held: Minutes of which a value waits; here they are missing.
        """
        if not _counts_plays(stream):
            return
        minutes = range(asked.first, min(asked.last, seen) + 1)
        nothing: Mapping[str, float] = {}
        plays = [None if minute in held else total_of(rows.get(minute, nothing)) for minute in minutes]
        with self._mutex:
            baseline = self._baseline(stream.media_id)
            if baseline.newest is not None and asked.first - baseline.newest > LONGEST_GAP:
                self.warmup.restart(stream)
            observations = baseline.take(asked.first, plays)
            self._unsaved.add(stream.media_id)
            self._judging.note(stream.media_id, observations, now)
            self._publish(stream.media_id, baseline)

    def judge(self, now: float) -> Mapping[str, Exception]:
        """Judge the newest minutes of all media.

        Args:
            now: Unix seconds.

        Returns:
            The media of which nothing can be said because of a defect, and what happened.
        """
        with self._mutex:
            self._standing, failed = self._judging.judge(now)
        return failed

    def drops(self, now: float) -> Mapping[str, Verdict]:
        """What is to be shown at a moment (Unix seconds), by media id, "" for the whole merchant."""
        longest = self._poll.max_lag + self._poll.max_staleness
        views = {}
        for media_id, standing in self._standing.items():
            newest = standing.newest
            if self.thresholds[media_id] is None or now - end_of(newest.minute) > longest:
                continue
            views[media_id] = standing.at(now)
        return views

    def hours(self) -> Mapping[str, Hour]:
        """The newest hour of plays, by media id, "" for the whole merchant."""
        # The copy is one step of the interpreter: no other thread adds a media meanwhile.
        return {media_id: _hour(recent) for media_id, recent in self._recent.copy().items()}

    def days(self) -> Mapping[str, Day]:
        """The last 24 hours, by media id, "" for the whole merchant."""
        return {}

    def dispersion(self) -> float:
        """By how much the variance of the whole merchant's plays is more than that of independent viewers; at least 1,
        and 1 while it is not known.
        """
        return self._baselines[""].dispersion

    def enter_history(self, request: WarmupRequest, rows: Rows) -> None:
        """Take the answer to a request of the warm-up."""
        media_id = request.media_id
        with self._mutex:
            baseline = self._baseline(media_id)
            if request.hourly:
                baseline.fill(past_hours(request, rows))
            else:
                baseline = baseline.begun_with(request.asked.first, past_minutes(request, rows))
                self._baselines[media_id] = baseline
            self._publish(media_id, baseline)
            self._unsaved.add(media_id)

    def _publish(self, media_id: str, baseline: Baseline) -> None:
        recent = baseline.recent_minutes()
        if recent is not None:
            self._recent[media_id] = recent

    # ---- the state file ----

    def save_now_and_then(self, now: float) -> None:
        """Write what is new to the state file, where that was not done a short while ago.

        Raises:
            StateWriteFailed: It could not be written; it will be later.
        """
        if not 0 <= now - self._saved_at < SAVE_EVERY:
            self.save(now)

    def save(self, now: float) -> None:
        """Write what is new to the state file. Raises as `save_now_and_then` does."""
        with self._mutex:
            self._saved_at = now
            unsaved = {media_id: self._baselines[media_id] for media_id in self._unsaved}
            packed = {media_id: baseline.pack(baseline.changed_days) for media_id, baseline in unsaved.items()}
            with self._state.transaction() as db:
                for media_id, each in packed.items():
                    known = self.warmup.complete(self._stream(media_id))
                    write_baseline(db, self._merchant_id, media_id, each, past_known=known)
            for baseline in unsaved.values():
                baseline.changed_days.clear()
            self._unsaved.clear()

    def _load(self) -> None:
        with self._state.read() as db:
            rows = read_baselines(db, self._merchant_id)
        for media_id, row in rows.items():
            if media_id not in self._baselines:
                continue
            if row.packed is not None:
                self._packed[media_id] = row.packed
                if row.packed.recent is not None:
                    self._recent[media_id] = row.packed.recent
            if row.past_known:
                self.warmup.skip(self._stream(media_id))
        # Its dispersion is read before its first answer.
        self._baseline("")
        if damaged := sum(row.damaged for row in rows.values()):
            log.warning(
                "plays that the drop detector remembers are damaged in the state file; they are fetched again",
                merchant=self._merchant_id,
                media=damaged,
            )

    def _baseline(self, media_id: str) -> Baseline:
        packed = self._packed.pop(media_id, None)
        if packed is not None:
            self._baselines[media_id] = Baseline.unpack(packed)
        return self._baselines[media_id]

    def _stream(self, media_id: str) -> Stream:
        return Stream(self._merchant_id, media_id, Target.PLAY_COUNT, Group.ALL)


def _counts_plays(stream: Stream) -> bool:
    return stream.target is Target.PLAY_COUNT and stream.group is Group.ALL


def _hour(recent: RecentMinutes) -> Hour:
    minutes = recent.last(60)
    return Hour(
        start=start_of(minutes[0][0]),
        plays=tuple(plays for _, plays, _ in minutes),
        expected=tuple(expected for _, _, expected in minutes),
    )
