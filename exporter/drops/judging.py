"""What the minutes of a merchant's media say about drops: of files, of live events and of the whole merchant."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from exporter.drops.baseline import Baseline, Observation
from exporter.drops.detector import Together, broad, evidence_of, judge_live
from exporter.drops.packed import HELD
from exporter.drops.tracker import Tracker, TrackerState
from exporter.model import MINUTE, LiveState, Minute, end_of
from exporter.views import DAY_STEP, DayState, Incident, IncidentState, Thresholds, Verdict

# A drop that is not yet an incident is shown for less than the 2 minutes that the alerts wait, scrapes every 30 s
# included. If no newer minute confirms it, it goes: neither rows that stop coming nor a media that is requested rarely
# can turn one odd minute into an alert.
HOLD = 80.0

# Seconds until a live event has its audience, and after which its state is too old to use.
SETTLED_IN = 12 * MINUTE
STATE_BELIEVED = 2 * MINUTE

# Looks of media that are so many minutes apart are of one time.
SAME_TIME = 5

# A media with at most so many plays in an hour, of which at least so many minutes are known, cannot have a drop.
_QUIET_PLAYS, _QUIET_KNOWN = 5, 50

# The newest minute looks like the beginning of a drop with so much evidence. The media is requested again soon.
_SUSPECT_EVIDENCE = 4.0

# Parts of a day.
PARTS = 24 * 60 // DAY_STEP

# Incidents of one media that are kept after their end.
MOST_INCIDENTS = 20

_CODES = (DayState.NO_DATA, DayState.JUDGED, DayState.WARNING, DayState.CRITICAL)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is said of a media until its next answer comes.

    Attributes:
        verdict: On its newest minute; while an incident is open, against the frozen baseline.
        incident: The incident that is open, or begins.
        since: When the newest minute came (Unix seconds).
    """

    verdict: Verdict
    incident: Incident | None
    since: float

    def at(self, now: float) -> Verdict:
        """What is shown at a moment (Unix seconds)."""
        # Most say that nothing is missing, and are the same in any case.
        return self.verdict if not self.verdict.ratio or self._stands(now) else self.verdict._replace(ratio=0.0)

    def incident_at(self, now: float) -> Incident | None:
        """The incident that is shown at a moment (Unix seconds)."""
        return self.incident if self.incident is not None and self._stands(now) else None

    @property
    def is_open(self) -> bool:
        """Whether an incident is open, which stands until the next answer."""
        return self.incident is not None and self.incident.state is IncidentState.OPEN

    def _stands(self, now: float) -> bool:
        return self.is_open or 0 <= now - self.since < HOLD


@dataclass(slots=True)
class DayBar:
    """The worst state in each part of the last 24 hours.

    Attributes:
        newest: The newest part: minute // 15.
        codes: The state of each part, as a digit, by part modulo 96.
    """

    newest: int = 0
    codes: list[int] = field(default_factory=lambda: [0] * PARTS)

    def mark(self, minute: Minute, state: DayState) -> None:
        """Note the state of a minute."""
        part = minute // DAY_STEP
        if part <= self.newest - PARTS:
            return
        for skipped in range(max(self.newest + 1, part - PARTS + 1), part + 1):
            self.codes[skipped % PARTS] = 0
        self.newest = max(self.newest, part)
        self.codes[part % PARTS] = max(self.codes[part % PARTS], _CODES.index(state))

    def states(self, last: int) -> tuple[DayState, ...]:
        """The states of the 96 parts that end with `last`, oldest first."""
        known = range(self.newest - PARTS + 1, self.newest + 1)
        parts = range(last - PARTS + 1, last + 1)
        return tuple(_CODES[self.codes[part % PARTS]] if part in known else DayState.NO_DATA for part in parts)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one media in the state file.

    Attributes:
        tracker: What its tracker remembers.
        standing: What is said of it.
        day: Its last 24 hours.
        incidents: Its incidents that have ended, oldest first.
    """

    tracker: TrackerState
    standing: Standing | None
    day: DayBar
    incidents: tuple[Incident, ...]


class Said(NamedTuple):
    """What is said of a media, for readers: copies.

    Attributes:
        standing: The verdict and the incident; None if nothing can be said.
        suspect: Whether its newest minute looks like the beginning of a drop.
        day: Its last 24 hours.
    """

    standing: Standing | None
    suspect: bool
    day: DayBar

    @property
    def shown(self) -> bool:
        """Whether a drop is shown."""
        return self.standing is not None and self.standing.verdict.ratio > 0

    @property
    def begins(self) -> bool:
        """Whether an incident begins."""
        incident = self.standing.incident if self.standing else None
        return incident is not None and incident.state is IncidentState.BEGINNING


class Judged(NamedTuple):
    """The result of judging.

    Attributes:
        media: The media that had new minutes.
        changed: The incidents that have begun or ended.
        failed: The errors of media that a defect prevents from being judged.
    """

    media: list[str]
    changed: list[Incident]
    failed: dict[str, Exception]


class LiveEvents(Protocol):
    """What the monitor asks the catalog about the media."""

    def name_of(self, media_id: str) -> str:
        """The name of a media, or ""."""
        ...

    def is_live(self, media_id: str) -> bool | None:
        """Whether a media shows live events, None while that is unknown."""
        ...

    def live_state(self, media_id: str) -> LiveState | None:
        """The newest known state of a media's live event, None while that is unknown."""
        ...


@dataclass(slots=True)
class _Watched:
    """One media.

    Attributes:
        tracker: Follows its drops; None where its alerts are disabled.
        past: Its plays.
        pending: Minutes that are not judged yet.
        came: When the newest of them came (Unix seconds).
        newest: The newest minute.
        standing: What is said of it.
        suspect: Whether its newest minute looks like the beginning of a drop.
    """

    tracker: Tracker | None
    past: Baseline | None = None
    pending: list[Observation] = field(default_factory=list)
    came: float = 0.0
    newest: Observation | None = None
    standing: Standing | None = None
    suspect: bool = False
    day: DayBar = field(default_factory=DayBar)
    incidents: deque[Incident] = field(default_factory=lambda: deque(maxlen=MOST_INCIDENTS))

    def seen(self) -> Observation | None:
        """The newest minute as the whole merchant's drop sees it."""
        return self.tracker.seen(self.newest) if self.tracker and self.newest else self.newest


class Judging:
    """The verdicts on all media of one merchant, and their incidents. Not safe for threads."""

    def __init__(
        self, live_events: LiveEvents, thresholds: Mapping[str, Thresholds | None], kept: Mapping[str, Kept], now: float
    ) -> None:
        """Create one.

        Args:
            live_events: Which media are live.
            thresholds: By media, "" for the whole merchant; None if its alerts are disabled.
            kept: What the state file has of some of them.
            now: When (Unix seconds). A drop that began before stands for as long as one that is found now.
        """
        self._live_events = live_events
        self._together = Together(HELD)
        # The media with minutes that are not judged yet.
        self._waiting: set[str] = set()
        self._media: dict[str, _Watched] = {}
        self.configure(thresholds, kept, now)

    def configure(self, thresholds: Mapping[str, Thresholds | None], kept: Mapping[str, Kept], now: float) -> None:
        """Watch these media from now on. What is known of those that were watched before stays, their drops included.

        The arguments are those of the constructor.
        """
        self._media = {
            media_id: self._carried(media_id, each) or _restored(media_id, each, kept.get(media_id), now)
            for media_id, each in thresholds.items()
        }
        self._waiting &= self._media.keys()

    def _carried(self, media_id: str, thresholds: Thresholds | None) -> _Watched | None:
        """A media that is watched already, with other thresholds; None if there is nothing to carry over."""
        watched = self._media.get(media_id)
        if watched is None or (watched.tracker is None) is not (thresholds is None):
            return None
        if watched.tracker is not None and thresholds is not None:
            watched.tracker = Tracker(media_id, thresholds, watched.tracker.state)
        return watched

    def note(self, media_id: str, past: Baseline, observations: Iterable[Observation], now: float) -> None:
        """Add what the new minutes of a media show; they are judged with those of the other media.

        A minute that is missing is not among them: what the ones before it said stands.

        Args:
            media_id: The media.
            past: Its plays, these minutes included. It is read until the next `judge`.
            observations: Not more than an hour of minutes.
            now: When they came (Unix seconds).
        """
        watched = self._media[media_id]
        watched.past, watched.came = past, now
        among_others = media_id and not self._live_events.is_live(media_id)
        for observation in observations:
            watched.pending.append(observation)
            watched.newest = observation
            self._waiting.add(media_id)
            if among_others:
                self._together.add(observation)

    def judge(self, media_id: str | None = None) -> Judged:
        """Judge the minutes that were added.

        Args:
            media_id: Only those of this media.
        """
        judged = Judged([], [], {})
        # The whole merchant's last: its drop is one of many media.
        for each in sorted(self._waiting, reverse=True) if media_id is None else self._waiting & {media_id}:
            self._waiting.discard(each)
            judged.media.append(each)
            watched = self._media[each]
            pending, watched.pending = watched.pending, []
            try:
                for observation in pending:
                    judged.changed.extend(self._step(each, watched, observation))
            except Exception as error:  # noqa: BLE001 - one media's defect leaves the others their verdicts
                judged.failed[each] = error
                watched.standing = None
        return judged

    def settle(self, media_id: str, revisable: int) -> None:
        """Count what an incident is missing so far, before further minutes come.

        Args:
            media_id: The media.
            revisable: All but so many of the newest minutes, which can still be revised.
        """
        watched = self._media[media_id]
        if watched.tracker and watched.past and watched.past.newest is not None:
            watched.tracker.settle(watched.past.newest - revisable, watched.past)

    def said(self, media_id: str) -> Said:
        """What is said of a media now."""
        each = self._media[media_id]
        return Said(each.standing, each.suspect, DayBar(each.day.newest, each.day.codes.copy()))

    def incidents(self) -> tuple[Incident, ...]:
        """The incidents that have ended."""
        return tuple(incident for each in self._media.values() for incident in each.incidents)

    def kept(self, media_id: str) -> Kept:
        """What the state file is to keep of a media."""
        each = self._media[media_id]
        tracker = each.tracker.state if each.tracker else TrackerState()
        return Kept(tracker, each.standing, each.day, tuple(each.incidents))

    # ---- one minute ----

    def _step(self, media_id: str, watched: _Watched, observation: Observation) -> Sequence[Incident]:
        tracker, past = watched.tracker, watched.past
        if tracker is None or past is None:
            return ()
        live = bool(media_id) and self._live_events.is_live(media_id)
        if live is None:
            watched.standing = None
            return ()
        if live and self._live_events.live_state(media_id) is None:
            # After a start it is not known yet whether its event runs. What was said before stands.
            return ()
        event_over = False
        if live:
            verdict, event_over = self._of_live(media_id, observation, watched.came)
        else:
            verdict = self._of_always_on(media_id, tracker, observation, past)
        ended = tracker.end(past) if event_over and tracker.is_open else None
        changed = [each for each in (ended, tracker.step(observation, verdict, past, flat=live)) if each is not None]
        incident = tracker.incident(past)
        if verdict is not None:
            verdict = tracker.shown(verdict)
        self._show(watched, observation, verdict, incident, past)
        watched.incidents.extend(each for each in changed if not each.lasts)
        return changed

    def _show(
        self,
        watched: _Watched,
        observation: Observation,
        verdict: Verdict | None,
        incident: Incident | None,
        past: Baseline,
    ) -> None:
        minute = observation.minute
        is_open = incident is not None and incident.state is IncidentState.OPEN
        if incident is not None and is_open:
            verdict = Verdict(minute, incident.ratio, verdict.evidence if verdict else 0.0, incident.expected)
            first = incident.onset if incident.opened == minute else minute
            for each in range(first, minute + 1):
                past.show_expected(each, incident.expected)
                watched.day.mark(each, DayState(incident.severity))
        elif verdict is not None:
            past.show_expected(minute, verdict.expected)
            watched.day.mark(minute, DayState.JUDGED)
        watched.standing = None if verdict is None else Standing(verdict, incident, watched.came)
        watched.suspect = not is_open and verdict is not None and (verdict.ratio > 0 or _is_low(past, verdict))

    def _of_always_on(
        self, media_id: str, tracker: Tracker, observation: Observation, past: Baseline
    ) -> Verdict | None:
        factor = self._together.factor(observation) if media_id else 1.0
        verdict = tracker.judge(observation, factor, past)
        if verdict is None:
            return _of_quiet(observation.minute, past)
        if media_id or not verdict.ratio:
            return verdict
        others = [seen for key, each in self._media.items() if key and (seen := each.seen()) is not None]
        others = [other for other in others if abs(other.minute - observation.minute) <= SAME_TIME]
        return verdict._replace(ratio=0.0) if others and not broad(others) else verdict

    def _of_live(self, media_id: str, observation: Observation, now: float) -> tuple[Verdict | None, bool]:
        """The verdict on a live media, and whether its event is over."""
        event = self._live_events.live_state(media_id)
        if event is None or (event.running and now - event.at > STATE_BELIEVED):
            return None, False
        if event.running and end_of(observation.minute) - event.since >= SETTLED_IN:
            return judge_live(observation), False
        plays, present = observation.windows[-1]
        usual = plays / present if present else 0.0
        expected = usual if observation.forecast is None else observation.forecast
        return Verdict(observation.minute, 0.0, 0.0, expected), not event.running


def _restored(media_id: str, thresholds: Thresholds | None, kept: Kept | None, now: float) -> _Watched:
    if thresholds is None:
        return _Watched(None)
    if kept is None:
        return _Watched(Tracker(media_id, thresholds))
    standing = None if kept.standing is None else replace(kept.standing, since=now)
    watched = _Watched(Tracker(media_id, thresholds, kept.tracker), standing=standing, day=kept.day)
    watched.incidents.extend(kept.incidents)
    return watched


def _of_quiet(minute: Minute, past: Baseline) -> Verdict | None:
    """The verdict on a media with next to no plays: nothing shows how much they vary, or that they fall."""
    plays, present = past.window(minute, 60)
    if present < _QUIET_KNOWN or plays > _QUIET_PLAYS:
        return None
    return Verdict(minute, 0.0, 0.0, plays / present)


def _is_low(past: Baseline, verdict: Verdict) -> bool:
    """Whether the newest minute or the newest two look like the beginning of a drop."""
    for length in (1, 2):
        plays, present = past.window(verdict.minute, length)
        expected = verdict.expected * present
        if plays < expected / 2 and evidence_of(plays, expected) > _SUSPECT_EVIDENCE * past.dispersion:
            return True
    return False
