"""The drop detector at work for one merchant: fed by the answers, heard after each round, kept in the state file.

The detector's own state is written every few minutes only, in one transaction for all media. A kill costs nothing but
work: the next answers begin a revision window earlier than what was written.
"""

import threading
from collections import deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from exporter.config.settings import MerchantSettings, Settings
from exporter.drops.baseline import Baseline, Look
from exporter.drops.baseline_rows import read_baselines, write_baseline
from exporter.drops.detector import Together, broad, judge, judge_live
from exporter.drops.dispersion import Dispersion
from exporter.drops.packed import HELD, Packed, RecentMinutes
from exporter.drops.warmup import Warmup, WarmupRequest, past_hours, past_minutes
from exporter.model import (
    DAY_MINUTES,
    MINUTE,
    Group,
    LiveState,
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
from exporter.views import Hour, Thresholds, Verdict

log = structlog.get_logger("watch")

# A drop that so many minutes show is none that one of them made up.
LASTING = 3

# A verdict on one minute stands for less than the 2 minutes that the alerts wait, scrapes every 30 s included. Then, if
# no newer minute has come, only what all of the last minutes show. So neither rows that stop coming nor a media that is
# asked for rarely can turn one odd minute into an alert.
HOLD = 80.0

SAVE_EVERY = 300.0

# A longer gap between two answers (minutes) is worth a request for what was in it.
LONGEST_GAP = 60

# A live event has its audience after so long (seconds), and its state tells nothing when it is older than the other.
SETTLED_IN = 12 * MINUTE
STATE_BELIEVED = 2 * MINUTE

# Looks of media that are so many minutes apart are of one time.
SAME_TIME = 5


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is said of a media until its next minute comes.

    Attributes:
        newest: What its newest minute shows.
        lasting: The ratio that all of the last minutes show.
        since: When the newest minute came (Unix seconds).
    """

    newest: Verdict
    lasting: float
    since: float


class LiveEvents(Protocol):
    """What the monitor asks about the live events of the media."""

    def is_live(self, media_id: str) -> bool | None:
        """Whether a media shows live events, None while that is unknown."""
        ...

    def live_state(self, media_id: str) -> LiveState | None:
        """The newest known state of a media's live event, None while that is unknown."""
        ...


class DropMonitor:
    """The detector of one merchant's media and of the whole merchant. Safe for use by several threads."""

    def __init__(self, state: State, settings: Settings, merchant: MerchantSettings, live_events: LiveEvents) -> None:
        """Take up what the state file knows.

        Args:
            state: The state file.
            settings: The configuration.
            merchant: Whose media.
            live_events: Which media are live.
        """
        self._state = state
        self._poll = settings.poll
        self._merchant_id = merchant.id
        self._live_events = live_events
        self._mutex = threading.Lock()
        self._tracks: dict[str, Baseline] = {
            stream.media_id: Baseline() for stream in merchant.streams() if _counts_plays(stream)
        }
        self.thresholds: Mapping[str, Thresholds | None] = {
            "": settings.thresholds(merchant),
            **{media.id: settings.thresholds(merchant, media) for media in merchant.media},
        }
        # What the state file has. To unpack a track takes a while, and there may be thousands.
        self._packed: dict[str, Packed] = {}
        self._past = Warmup(map(self._stream, self._tracks))
        self._looks: dict[str, deque[Look]] = {media_id: deque(maxlen=LASTING) for media_id in self._tracks}
        self._came: dict[str, float] = {}
        self._together = Together()
        # Scrapes read it without the mutex, so it is never changed: a new one takes its place.
        self._standing: Mapping[str, _Standing] = {}
        # Scrapes and pages read these without the mutex, so their values are never changed: a new one takes its place.
        self._recent: dict[str, RecentMinutes] = {}
        self._dispersion = 1.0
        self._unsaved: set[str] = set()
        # Those of which all days are to be written.
        self._unsaved_whole: set[str] = set()
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
                taken as empty, and do not tell of a drop.
            now: When it came (Unix seconds).
            held: Minutes of which a value waits; here they are missing.
        """
        if not _counts_plays(stream):
            return
        minutes = range(asked.first, min(asked.last, seen) + 1)
        nothing: Mapping[str, float] = {}
        plays = [None if minute in held else total_of(rows.get(minute, nothing)) for minute in minutes]
        with self._mutex:
            track = self._track(stream.media_id)
            if track.newest is not None and asked.first - track.newest > LONGEST_GAP:
                self._past.want(stream)
            looks = track.take(asked.first, plays)
            self._note(stream.media_id, looks, now)
            self._publish(stream.media_id, track)

    def judge(self, now: float) -> Mapping[str, Exception]:
        """Say anew of all media what their newest minutes show, after more of them have come.

        Args:
            now: Unix seconds.

        Returns:
            The media of which nothing can be said because of a defect, and what happened.
        """
        standing: dict[str, _Standing] = {}
        failed: dict[str, Exception] = {}
        with self._mutex:
            for media_id in self._looks:
                try:
                    found = self._judge(media_id, now)
                except Exception as error:  # noqa: BLE001 - one media's defect leaves the others their verdicts
                    failed[media_id] = error
                else:
                    if found is not None:
                        standing[media_id] = found
            self._standing = standing
        return failed

    def _judge(self, media_id: str, now: float) -> _Standing | None:
        """What is to be said of a media; None where nothing can."""
        verdicts = [self._verdict(media_id, look, now) for look in self._looks[media_id]]
        newest = verdicts[-1] if verdicts else None
        if newest is None:
            return None
        ratios = [verdict.ratio for verdict in verdicts if verdict is not None]
        lasting = min(ratios) if len(ratios) == LASTING else 0.0
        return _Standing(newest, lasting, self._came[media_id])

    def drops(self, now: float) -> Mapping[str, Verdict]:
        """What is to be shown at a moment (Unix seconds), by media id, "" for the whole merchant."""
        longest = self._poll.max_lag + self._poll.max_staleness
        views = {}
        for media_id, standing in self._standing.items():
            newest = standing.newest
            if self.thresholds[media_id] is None or now - end_of(newest.minute) > longest:
                continue
            ratio = newest.ratio if 0 <= now - standing.since < HOLD else min(newest.ratio, standing.lasting)
            views[media_id] = newest._replace(ratio=ratio)
        return views

    def hours(self) -> Mapping[str, Hour]:
        """The newest hour of plays, by media id, "" for the whole merchant."""
        # The copy is one step of the interpreter: no other thread adds a media meanwhile.
        return {media_id: _hour(recent) for media_id, recent in self._recent.copy().items()}

    def noise(self) -> float:
        """By how much the variance of the whole merchant's plays is more than that of independent viewers; at least 1,
        and 1 while it is not known.
        """
        return self._dispersion

    # ---- the past ----

    def next_history(self, now: float, settled: Minute, under_way: Iterable[object]) -> WarmupRequest | None:
        """What of the past to ask for next, if anything is due.

        Args:
            now: Unix seconds.
            settled: The newest settled minute.
            under_way: Requests that are on the way.
        """
        with self._mutex:
            busy = {task.stream for task in under_way if isinstance(task, WarmupRequest)}
            return self._past.next(now, settled, busy)

    def enter_history(self, history: WarmupRequest, rows: Rows) -> None:
        """Take plays of the past."""
        media_id = history.media_id
        with self._mutex:
            track = self._track(media_id)
            if history.hourly:
                track.fill(past_hours(history, rows))
            else:
                self._tracks[media_id] = _begun_with(history.asked.first, past_minutes(history, rows), track)
                self._unsaved_whole.add(media_id)
            self._publish(media_id, self._tracks[media_id])
            self._past.answered(history)
            self._unsaved.add(media_id)

    def refused(self, history: WarmupRequest) -> None:
        """The API does not take the range of a request of the past."""
        with self._mutex:
            self._past.refused(history)

    def failed(self, history: WarmupRequest, now: float) -> None:
        """A request of the past failed otherwise."""
        with self._mutex:
            self._past.failed(history, now)

    # ---- judging ----

    def _note(self, media_id: str, looks: Iterable[Look], now: float) -> None:
        self._unsaved.add(media_id)
        among_others = media_id and not self._live_events.is_live(media_id)
        for look in looks:
            # A minute that is missing says nothing, and what the ones before it said stands.
            if look.live is None:
                continue
            self._looks[media_id].append(look)
            self._came[media_id] = now
            if among_others:
                self._together.add(look)

    def _verdict(self, media_id: str, look: Look, now: float) -> Verdict | None:
        if not media_id:
            return self._of_merchant(look)
        live = self._live_events.is_live(media_id)
        if live is None:
            return None
        return self._of_live(media_id, look, now) if live else judge(look, self._together.factor(look))

    def _of_live(self, media_id: str, look: Look, now: float) -> Verdict | None:
        event = self._live_events.live_state(media_id)
        if event is None or (event.running and now - event.at > STATE_BELIEVED):
            return None
        if event.running and end_of(look.minute) - event.since >= SETTLED_IN:
            return judge_live(look)
        return None if look.forecast is None else Verdict(look.minute, 0.0, 0.0, look.forecast)

    def _of_merchant(self, look: Look) -> Verdict | None:
        verdict = judge(look)
        if verdict is None:
            return None
        others = [looks[-1] for media_id, looks in self._looks.items() if media_id and looks]
        others = [other for other in others if abs(other.minute - look.minute) <= SAME_TIME]
        if others and not broad(others):
            return verdict._replace(ratio=0.0)
        return verdict

    def _publish(self, media_id: str, track: Baseline) -> None:
        recent = track.recent_minutes()
        if recent is not None:
            self._recent[media_id] = recent
        if not media_id:
            self._dispersion = track.noise

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
            packed = {media_id: self._pack(media_id) for media_id in self._unsaved}
            # If this fails, nobody knows any more what has changed.
            self._unsaved_whole |= self._unsaved
            with self._state.transaction() as db:
                for media_id, track in packed.items():
                    known = not self._past.wanted(self._stream(media_id))
                    write_baseline(db, self._merchant_id, media_id, track, past_known=known)
            self._unsaved.clear()
            self._unsaved_whole.clear()

    def _pack(self, media_id: str) -> Packed:
        track = self._tracks[media_id]
        return track.pack() if media_id in self._unsaved_whole else track.pack(track.changed_days)

    def _load(self) -> None:
        with self._state.read() as db:
            rows = read_baselines(db, self._merchant_id)
        for media_id, row in rows.items():
            if media_id not in self._tracks:
                continue
            if row.packed is not None:
                self._packed[media_id] = row.packed
                if (recent := row.packed.recent_minutes) is not None:
                    self._recent[media_id] = recent
            if row.past_known:
                self._past.known(self._stream(media_id))
        if "" in self._packed:
            self._dispersion = Dispersion(self._packed[""].noise).excess or 1.0
        if damaged := sum(row.damaged for row in rows.values()):
            log.warning(
                "plays that the drop detector remembers are damaged in the state file; they are fetched again",
                merchant=self._merchant_id,
                media=damaged,
            )

    def _track(self, media_id: str) -> Baseline:
        packed = self._packed.pop(media_id, None)
        if packed is not None:
            self._tracks[media_id] = Baseline.unpack(packed)
        return self._tracks[media_id]

    def _stream(self, media_id: str) -> Stream:
        return Stream(self._merchant_id, media_id, Target.PLAY_COUNT, Group.ALL)


def _counts_plays(stream: Stream) -> bool:
    return stream.target is Target.PLAY_COUNT and stream.group is Group.ALL


def _begun_with(first: Minute, plays: list[float | None], track: Baseline) -> Baseline:
    """The track as it would be if it had taken these minutes first; the days before them stay."""
    days = {day: steps for day, steps in track.pack().days.items() if day <= first // DAY_MINUTES}
    nothing = Baseline().pack()
    begun = Baseline.unpack(Packed(first - 1, nothing.recent, nothing.noise, days))
    begun.take(first, plays)
    later = [(minute, value) for minute, value, _ in track.recent(HELD) if minute >= first + len(plays)]
    if later:
        begun.take(later[0][0], [value for _, value in later])
    return begun


def _hour(recent: RecentMinutes) -> Hour:
    minutes = recent.last(60)
    return Hour(
        start=start_of(minutes[0][0]),
        plays=tuple(plays for _, plays, _ in minutes),
        expected=tuple(expected for _, _, expected in minutes),
    )
