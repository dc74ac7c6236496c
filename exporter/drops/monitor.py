"""The drop detector at work for one merchant: takes answers, judges after each round, kept in the state file.

The detector's own state is written every few minutes only, in one transaction for all media. A kill costs nothing but
work: the next answers begin a revision window earlier than what was written.
"""

import threading
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import structlog

from exporter.config.settings import MerchantSettings, Settings
from exporter.drops.baseline import REVISABLE, Baseline
from exporter.drops.baseline_rows import read_baselines, read_drop_states, write_baseline, write_drop_state
from exporter.drops.judging import PARTS, Judged, Judging, Kept, LiveEvents, Said
from exporter.drops.packed import Packed, RecentMinutes
from exporter.drops.warmup import Warmup, WarmupRequest, past_hours, past_minutes
from exporter.model import (
    DAY_MINUTES,
    MINUTE,
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
from exporter.times import format_instant
from exporter.views import (
    DAY_STEP,
    Day,
    Hour,
    Incident,
    IncidentState,
    Judgement,
    Thresholds,
    Verdict,
    of_whole_merchant,
)

log = structlog.get_logger("drops")

SAVE_EVERY = 300.0

# A longer gap between two answers (minutes) is worth a request for what was in it.
LONGEST_GAP = 60

# Minutes that are judged at a time: fewer than a baseline holds one by one, less those in which an onset is searched.
AT_ONCE = 30

# Incidents that ended longer ago (minutes) are not shown.
SHOWN_FOR = 7 * DAY_MINUTES

# An incident of a media belongs to one of the whole merchant that began at most so many minutes after it.
WITH_MERCHANT = 15


class Drop(NamedTuple):
    """What is said of the plays of a media, or of the whole merchant.

    Attributes:
        verdict: On its newest minute; None without one, or where that minute is too old and no incident is open.
        judgement: Whether there is one on a minute that is not too old, and why not.
        incident: Its open incident, which stands however old the data is.
    """

    verdict: Verdict | None
    judgement: Judgement
    incident: Incident | None


# Of media whose plays are not collected.
NO_DROP = Drop(None, Judgement.OFF, None)

# Of media of which nothing can be said, and of those of which nothing can be said yet.
BLIND = Drop(None, Judgement.NO_DATA, None)
LEARNING = Drop(None, Judgement.LEARNING, None)


class DropMonitor:
    """The drop detection of one merchant's media and of the whole merchant. Thread-safe.

    Attributes:
        warmup: The history that is still missing.
        thresholds: By media id, "" for the whole merchant; None if its alerts are disabled.
        suspects: The media whose newest minute looks like the beginning of a drop, and whether one is shown already.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        merchant: MerchantSettings,
        live_events: LiveEvents,
        now: float,
    ) -> None:
        """Load the baselines of the state file.

        Args:
            state: The state file.
            settings: The configuration.
            merchant: Whose media.
            live_events: Which media are live.
            now: When (Unix seconds).
        """
        self._state = state
        self._live_events = live_events
        self._merchant_id = merchant.id
        self._mutex = threading.Lock()
        self._baselines: dict[str, Baseline] = {}
        # What the state file has. To unpack a baseline takes a while, and there may be thousands.
        self._packed: dict[str, Packed] = {}
        self.warmup = Warmup(())
        self._judging = Judging(live_events, {}, {}, now)
        # Scrapes read these without the mutex, so they are never changed: new ones take their place.
        self.thresholds: Mapping[str, Thresholds | None] = {}
        self._said: Mapping[str, Said] = {}
        self._ended: Sequence[Incident] = ()
        self.suspects: Mapping[str, bool] = {}
        # Pages read these without the mutex, so they are never changed: new ones take their place.
        self._recent: dict[str, RecentMinutes] = {}
        self._unsaved: set[str] = set()
        self._saved_at = float("-inf")
        self.configure(settings, merchant, now)

    def configure(self, settings: Settings, merchant: MerchantSettings, now: float) -> None:
        """Watch the media of a configuration: load what the state file has of the new ones, and forget the others.

        What is known of media that were watched before stays, their drops included. The arguments are those of the
        constructor.
        """
        thresholds: Mapping[str, Thresholds | None] = {
            "": None if (whole := settings.thresholds(merchant)) is None else of_whole_merchant(whole),
            **{media.id: settings.thresholds(merchant, media) for media in merchant.media},
        }
        wanted = [stream.media_id for stream in merchant.streams() if stream.counts_plays]
        with self._mutex:
            added = dict.fromkeys(media_id for media_id in wanted if media_id not in self._baselines)
            removed = self._baselines.keys() - wanted
            self._poll = settings.poll
            baselines = {
                media_id: Baseline() if media_id in added else self._baselines[media_id] for media_id in wanted
            }
            for media_id in removed:
                self._packed.pop(media_id, None)
                self.warmup.skip(self._stream(media_id))
            self._unsaved -= removed
            self._recent = {media_id: each for media_id, each in self._recent.items() if media_id not in removed}
            kept = self._load(added)
            watched = {media_id: thresholds[media_id] for media_id in wanted}
            self._judging.configure(watched, kept, now)
            self._said = {media_id: self._judging.said(media_id) for media_id in wanted}
            self._ended = self._judging.incidents()
            self.suspects = {media_id: shown for media_id, shown in self.suspects.items() if media_id not in removed}
            self.thresholds = thresholds
            self._baselines = baselines
            # Its dispersion is read before its first answer.
            self._baseline("")

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
        if not stream.counts_plays:
            return
        minutes = range(asked.first, min(asked.last, seen) + 1)
        nothing: Mapping[str, float] = {}
        plays = [None if minute in held else total_of(rows.get(minute, nothing)) for minute in minutes]
        media_id = stream.media_id
        with self._mutex:
            if media_id not in self._baselines:
                return
            baseline = self._baseline(media_id)
            if baseline.newest is not None and asked.first - baseline.newest > LONGEST_GAP:
                self.warmup.restart(stream)
                self._judging.settle(media_id, revisable=0)
            self._unsaved.add(media_id)
            for start in range(0, len(plays), AT_ONCE):
                if start:
                    # Of a long answer, all but the end is not judged together with other media.
                    self._judge(media_id)
                self._judging.settle(media_id, REVISABLE)
                observations = baseline.take(asked.first + start, plays[start : start + AT_ONCE])
                self._judging.note(media_id, baseline, observations, now)
            self._publish(media_id, baseline)

    def judge(self) -> Mapping[str, Exception]:
        """Judge the newest minutes of all media that have any.

        Returns:
            The media of which nothing can be said because of a defect, and what happened.
        """
        with self._mutex:
            judged = self._judge()
            if judged.media:
                said = {media_id: self._judging.said(media_id) for media_id in judged.media}
                self._said = {**self._said, **said}
                suspects = {media_id: each.shown for media_id, each in said.items() if each.suspect}
                others = {media_id: shown for media_id, shown in self.suspects.items() if media_id not in said}
                self.suspects = others | suspects
                if any(each.begins for each in said.values()):
                    # A restart must not forget it.
                    self._saved_at = float("-inf")
                for media_id in said:
                    # The expected plays are not the forecast alone.
                    self._publish(media_id, self._baselines[media_id])
        return judged.failed

    def _judge(self, media_id: str | None = None) -> Judged:
        judged = self._judging.judge(media_id)
        for incident in judged.changed:
            self._log(incident)
            # A restart must not forget it.
            self._saved_at = float("-inf")
        if judged.changed:
            self._ended = self._judging.incidents()
        return judged

    def _log(self, incident: Incident) -> None:
        media_id = incident.media_id
        facts = {
            "merchant": self._merchant_id,
            **({"media": media_id, "name": self._live_events.name_of(media_id)} if media_id else {}),
            "since": format_instant(start_of(incident.onset)),
        }
        if incident.state is IncidentState.OPEN:
            log.warning(
                "plays are dropping", **facts, expected=round(incident.expected, 1), plays=round(incident.plays, 1)
            )
        elif incident.state is IncidentState.ENDED:
            log.info("plays are back", **facts, plays_lost=round(incident.lost))
        else:
            log.warning("the drop has lasted so long that it is the new baseline", **facts, plays=incident.plays)

    def drops(self, now: float) -> Mapping[str, Drop]:
        """What is to be shown at a moment (Unix seconds), by media id, "" for the whole merchant."""
        # Minutes that ended before that are too old.
        oldest = now - self._poll.max_lag - self._poll.max_staleness
        return {media_id: self._drop(media_id, now, oldest) for media_id in self._baselines}

    def _drop(self, media_id: str, now: float, oldest: float) -> Drop:
        if self.thresholds[media_id] is None:
            return NO_DROP
        standing = self._said[media_id].standing
        if standing is not None:
            judged = end_of(standing.verdict.minute) >= oldest
            # Without data nobody may say that a drop is over.
            shown = standing.at(now) if judged or standing.is_open else None
            judgement = Judgement.JUDGED if judged else Judgement.NO_DATA
            return Drop(shown, judgement, standing.incident_at(now))
        recent = self._recent.get(media_id)
        fresh = recent is not None and end_of(recent.newest) >= oldest
        return LEARNING if fresh or not self.warmup.complete(self._stream(media_id)) else BLIND

    def incidents(self, now: float) -> tuple[Incident, ...]:
        """The incidents that last or begin, and those that ended in the last days, the newest onset first."""
        oldest = now / MINUTE - SHOWN_FOR
        standing = [said.standing for said in self._said.values() if said.standing is not None]
        found = [incident for each in standing if (incident := each.incident_at(now)) is not None]
        found += [each for each in self._ended if each.minute > oldest]
        whole = [each for each in found if not each.media_id]
        marked = [replace(each, with_merchant=True) if _belongs(each, whole) else each for each in found]
        return tuple(sorted(marked, key=lambda each: (-each.onset, each.media_id)))

    def expected(self) -> Mapping[str, float]:
        """The plays a minute that are expected of media with an open incident."""
        standing = {media_id: said.standing for media_id, said in self._said.items()}
        return {media_id: each.incident.expected for media_id, each in standing.items() if each and each.incident}

    def days(self, now: float) -> Mapping[str, Day]:
        """The last 24 hours, by media id, "" for the whole merchant."""
        last = int(now // (DAY_STEP * MINUTE))
        start = (last - PARTS + 1) * DAY_STEP * MINUTE
        return {media_id: Day(start, said.day.states(last)) for media_id, said in self._said.items()}

    def hours(self) -> Mapping[str, Hour]:
        """The newest hour of plays, by media id, "" for the whole merchant."""
        # The copy is one step of the interpreter: no other thread adds a media meanwhile.
        return {media_id: _hour(recent) for media_id, recent in self._recent.copy().items()}

    def dispersion(self) -> float:
        """By how much the variance of the whole merchant's plays is more than that of independent viewers; at least 1,
        and 1 while it is not known.
        """
        return self._baselines[""].dispersion

    def enter_history(self, request: WarmupRequest, rows: Rows, now: float) -> None:
        """Take the answer to a request of the warm-up, which came at a moment (Unix seconds)."""
        media_id = request.media_id
        with self._mutex:
            if media_id not in self._baselines:
                return
            baseline = self._baseline(media_id)
            if request.hourly:
                baseline.fill(past_hours(request, rows))
            else:
                baseline, newest = baseline.begun_with(request.asked.first, past_minutes(request, rows))
                self._baselines[media_id] = baseline
                if newest is not None and self._said[media_id].standing is None:
                    # It can be judged at once, and need not wait for its next answer.
                    self._judging.note(media_id, baseline, [newest], now)
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
                    write_drop_state(db, self._merchant_id, media_id, self._judging.kept(media_id))
            for baseline in unsaved.values():
                baseline.changed_days.clear()
            self._unsaved.clear()

    def _load(self, added: Collection[str]) -> Mapping[str, Kept]:
        """Load what the state file has of media; returns what it has of their drops."""
        if not added:
            return {}
        with self._state.read() as db:
            rows = read_baselines(db, self._merchant_id)
            kept = read_drop_states(db, self._merchant_id)
        for media_id in added:
            self.warmup.restart(self._stream(media_id))
        for media_id, row in rows.items():
            if media_id not in added:
                continue
            if row.packed is not None:
                self._packed[media_id] = row.packed
                if row.packed.recent is not None:
                    self._recent[media_id] = row.packed.recent
            if row.past_known:
                self.warmup.skip(self._stream(media_id))
        if damaged := sum(media_id in added and each is None for media_id, each in kept.items()):
            log.warning("drops are damaged in the state file; they are detected again", media=damaged)
        if damaged := sum(media_id in added and row.damaged for media_id, row in rows.items()):
            log.warning(
                "plays that the drop detector remembers are damaged in the state file; they are fetched again",
                merchant=self._merchant_id,
                media=damaged,
            )
        return {media_id: each for media_id, each in kept.items() if media_id in added and each is not None}

    def _baseline(self, media_id: str) -> Baseline:
        packed = self._packed.pop(media_id, None)
        if packed is not None:
            self._baselines[media_id] = Baseline.unpack(packed)
        return self._baselines[media_id]

    def _stream(self, media_id: str) -> Stream:
        return Stream(self._merchant_id, media_id, Target.PLAY_COUNT, Group.ALL)


def _belongs(incident: Incident, whole: Sequence[Incident]) -> bool:
    """Whether an incident of a media began with, or during, one of the whole merchant."""
    return bool(incident.media_id) and any(
        each.onset - WITH_MERCHANT <= incident.onset <= (incident.onset if each.lasts else each.minute)
        for each in whole
    )


def _hour(recent: RecentMinutes) -> Hour:
    minutes = recent.last(60)
    return Hour(
        start=start_of(minutes[0][0]),
        plays=tuple(plays for _, plays, _ in minutes),
        expected=tuple(expected for _, _, expected in minutes),
    )
