"""Follows one media, or the whole merchant, from the first minute of a drop to its end. Pure.

The detector says when a drop begins. It cannot say when it ends: its forecast sinks into a drop that lasts. So when a
drop has begun, an incident freezes what was expected before it, and compares the plays with that: in the shape of the
season, at the level before the drop. The rule is docs/drop-detection.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from exporter.drops.baseline import REVISABLE, Observation
from exporter.drops.detector import evidence_of, judge, judge_windows
from exporter.model import MINUTE, Minute
from exporter.views import Incident, IncidentState, Severity, Thresholds, Verdict

# A drop begins when so many more minutes in a row show it: one odd minute is none. The alerts wait as long.
PENDING = 2

# How far back, in minutes, the onset of a drop is searched.
_ONSET_WITHIN = 60
# In a live event it is in the windows that show it: before them the event may not have begun.
_FLAT_ONSET_WITHIN = 8

# The windows, in minutes, over which the plays of an open incident are compared, and for how many minutes in a row they
# must be back. The shortest window that expects enough plays is used: quiet media vary by chance. A longer window takes
# longer to show that the plays are back, so it needs fewer minutes in a row: the incident ends after 10 to 20 minutes.
_WINDOWS = ((5, 10), (10, 7), (30, 1))

# Plays, divided by the noise, that a window must expect to be used; with fewer than the second number in half an hour,
# as at night, nobody could tell whether the plays are back.
_ENOUGH, _LEAST = 15.0, 4.0

# An incident lasts at least so many minutes after its alert has begun.
BACK_FOR = 10

# For so many minutes after an incident the detector's forecast still contains it. Until then the frozen baseline is
# used, and only minutes after the incident: so its end is no new drop, and a relapse is found.
AFTERWARDS = 70
_RECENT_UNTIL, _RECENT_LEAST = 10, 5

# Plays that have just come back are uneven, so another drop needs so many times the evidence.
_UNEVEN = 2.0


class Past(Protocol):
    """The plays of the last hours, as the tracker reads them."""

    def season(self, minute: Minute) -> float:
        """The plays a minute that are usual at this time; not a number where unknown."""
        ...

    def window(self, last: Minute, length: int) -> tuple[float, int]:
        """Plays and minutes present of the `length` minutes that end with `last`."""
        ...


@dataclass(frozen=True, slots=True)
class Frozen:
    """What was expected before a drop.

    Attributes:
        onset: The first minute of the drop.
        level: The plays a minute that were expected then.
        season: The plays a minute that are usual at that time; None if unknown: then the level alone is expected.
        noise: By how much the variance of the plays is more than that of independent viewers.
    """

    onset: Minute
    level: float
    season: float | None
    noise: float

    def expected(self, minute: Minute, past: Past) -> float:
        """The plays expected in a minute since the onset."""
        if self.season is None:
            return self.level
        now = past.season(minute)
        return self.level * now / self.season if now == now else self.level  # noqa: PLR0124 - a number


@dataclass(frozen=True, slots=True)
class Open:
    """An open incident.

    Attributes:
        frozen: What is expected.
        opened: The minute in which its alert began.
        minute: The newest minute compared.
        ratio: The share of the expected plays that is missing now.
        expected: The plays a minute expected now.
        plays: The plays a minute now.
        worst: The largest ratio, the minute that had it, and the plays expected in it.
        critical_since: The first minute in a row above the critical threshold.
        critical_at: The minute in which its critical alert began.
        back: For how many minutes in a row the plays have been back.
        settled: The plays up to this minute, which are not revised any more, are in `lost`.
        lost: The plays missing up to then.
    """

    frozen: Frozen
    opened: Minute
    minute: Minute
    ratio: float
    expected: float
    plays: float
    worst: tuple[float, Minute, float]
    critical_since: Minute | None
    critical_at: Minute | None
    back: int
    settled: Minute
    lost: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """The time after an incident.

    Attributes:
        frozen: What is expected until then.
        first: The first minute after the incident.
        until: The last minute for which its baseline is used.
    """

    frozen: Frozen
    first: Minute
    until: Minute


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Minutes in a row that show a drop.

    Attributes:
        since: The first of them.
        newest: The newest.
        critical_since: The first in a row above the critical threshold.
        ratio: The share of the expected plays that is missing since the likely onset.
        frozen: What is expected, with that onset.
        expected: The plays expected in the first of them.
        limit: What the season and the level, without the newest plays, let expect; not a number where unknown.
    """

    since: Minute
    newest: Minute
    critical_since: Minute | None
    ratio: float
    frozen: Frozen
    expected: float
    limit: float | None


@dataclass(frozen=True, slots=True)
class TrackerState:
    """What a tracker remembers: for the state file.

    Attributes:
        suspicion: The minutes in a row that show a drop, while no incident is open.
        open: The open incident.
        recovered: The time after the last one.
    """

    suspicion: Suspicion | None = None
    open: Open | None = None
    recovered: Recovered | None = None


class Tracker:
    """Follows one media, or the whole merchant. Not safe for threads."""

    def __init__(self, media_id: str, thresholds: Thresholds, state: TrackerState | None = None) -> None:
        """Create one.

        Args:
            media_id: The media, "" for the whole merchant.
            thresholds: Of its alerts.
            state: What another one remembered.
        """
        self._media_id = media_id
        self._thresholds = thresholds
        self.state = state or TrackerState()

    @property
    def is_open(self) -> bool:
        """Whether an incident is open."""
        return self.state.open is not None

    def shown(self, verdict: Verdict) -> Verdict:
        """The verdict on the newest minute as it is shown: with the depth since the onset, where a drop begins."""
        suspicion = self.state.suspicion
        return verdict if suspicion is None else verdict._replace(ratio=suspicion.ratio)

    def seen(self, observation: Observation) -> Observation:
        """A minute as the whole merchant's drop sees it: during an incident the forecast has sunk into it."""
        found = self.state.open
        return observation if found is None else observation._replace(forecast=found.expected)

    def judge(self, observation: Observation, factor: float, past: Past) -> Verdict | None:
        """Judge a minute: by the detector's rule, or shortly after an incident by the baseline frozen at its onset.

        Args:
            observation: The minute.
            factor: By how much less is expected, because of the other media.
            past: The plays.

        Returns:
            The verdict; None if too little is known.
        """
        recovered = self.state.recovered
        minute = observation.minute
        if recovered is None or minute > recovered.until:
            return judge(observation, factor)
        expected = recovered.frozen.expected(minute, past)
        known = minute - recovered.first + 1
        # As in the forecast, the recent plays count: those since the incident, but the last ten minutes.
        plays, present = past.window(minute - _RECENT_UNTIL, min(60, known - _RECENT_UNTIL))
        if present >= _RECENT_LEAST:
            expected = min(expected, plays / present)
        windows = [past.window(minute, length) for length, _ in _WINDOWS if length <= known]
        ratio, evidence = judge_windows(windows, expected, _UNEVEN * recovered.frozen.noise)
        return Verdict(minute, ratio, evidence, expected)

    def step(
        self, observation: Observation, verdict: Verdict | None, past: Past, *, flat: bool = False
    ) -> Incident | None:
        """Take the next minute that is present.

        Args:
            observation: The minute.
            verdict: From `judge`, or another rule's; None if too little is known: it ends no incident.
            past: The plays.
            flat: Whether the baseline of an incident that begins is the same at each time of the day, as in an event.

        Returns:
            The incident that has begun or ended with this minute.
        """
        if self.state.open is not None:
            return None if verdict is None and flat else self._follow(self.state.open, observation.minute, past)
        return self._watch(observation, verdict, past, flat=flat)

    def end(self, past: Past) -> Incident | None:
        """End the open incident, because nothing is expected any more: a live event is over."""
        found = self.incident(past, IncidentState.ENDED)
        self.state = TrackerState()
        return found

    def settle(self, until: Minute, past: Past) -> None:
        """Count what is missing up to a minute, before its plays are not held any more."""
        if self.state.open is not None:
            self.state = replace(self.state, open=_settled(self.state.open, until, past))

    def incident(self, past: Past, state: IncidentState = IncidentState.OPEN) -> Incident | None:
        """The open incident, or one that begins, with what is missing up to now."""
        found = self.state.open
        if found is None:
            return self._beginning(past)
        # What comes above the expected plays after the drop does not make up for it.
        lost = found.lost + sum(_missing(found.frozen, found.settled + 1, found.minute - found.back, past))
        begun = self._incident(found, state, critical=found.critical_at is not None, lost=lost)
        _, worst_minute, worst_expected = found.worst
        return replace(
            begun,
            opened=found.opened,
            critical_at=found.critical_at,
            worst_minute=worst_minute,
            worst_expected=worst_expected,
        )

    def _incident(self, found: Open, state: IncidentState, *, critical: bool, lost: float) -> Incident:
        return Incident(
            self._media_id,
            found.frozen.onset,
            state,
            Severity.CRITICAL if critical or not self._media_id else Severity.WARNING,
            found.minute,
            found.ratio,
            found.worst[0],
            found.expected,
            found.plays,
            max(0.0, lost),
            found.frozen.onset + int(self._thresholds.accept_after // MINUTE),
        )

    # ---- before an incident ----

    def _beginning(self, past: Past) -> Incident | None:
        suspicion = self.state.suspicion
        if suspicion is None:
            return None
        frozen, minute = suspicion.frozen, suspicion.newest
        lost = sum(_missing(frozen, frozen.onset, minute, past))
        found = _opened(suspicion, frozen, past, over=minute - frozen.onset + 1)
        critical = suspicion.critical_since is not None
        return self._incident(found, IncidentState.BEGINNING, critical=critical, lost=lost)

    def _watch(self, observation: Observation, verdict: Verdict | None, past: Past, *, flat: bool) -> Incident | None:
        minute = observation.minute
        if verdict is None or verdict.ratio <= self._thresholds.warning:
            self.state = TrackerState(recovered=self._recovered(minute))
            return None
        suspicion = self._suspect(observation, verdict, past, flat=flat)
        self.state = TrackerState(suspicion, recovered=self._recovered(minute))
        return self._open(suspicion, minute, past) if minute >= suspicion.since + PENDING else None

    def _suspect(self, observation: Observation, verdict: Verdict, past: Past, *, flat: bool) -> Suspicion:
        minute, before = observation.minute, self.state.suspicion
        limit = observation.seasonal if observation.forecast is not None else math.nan
        since, expected_then, limited = minute, verdict.expected, None if math.isnan(limit) else limit
        critical_since = None
        if before is not None and before.newest == minute - 1:
            since, expected_then, limited = before.since, before.expected, before.limit
            critical_since = before.critical_since
        frozen = self._frozen(since, expected_then, observation, past, flat=flat)
        # The windows of the verdict also have minutes before the onset. Those since then show how deep the drop is.
        plays, present = past.window(minute, minute - frozen.onset + 1)
        expected = frozen.expected(minute, past) * present
        ratio = max(verdict.ratio, 1 - plays / expected if expected > 0 else 0.0)
        if ratio <= self._thresholds.critical:
            critical_since = None
        elif critical_since is None:
            critical_since = minute
        return Suspicion(since, minute, critical_since, ratio, frozen, expected_then, limited)

    def _recovered(self, minute: Minute) -> Recovered | None:
        recovered = self.state.recovered
        return recovered if recovered is not None and minute < recovered.until else None

    def _frozen(self, since: Minute, expected: float, observation: Observation, past: Past, *, flat: bool) -> Frozen:
        """What is expected of a drop that a minute first showed, against the plays expected then; its likely onset."""
        minute, recovered = observation.minute, self.state.recovered
        first = minute - (_FLAT_ONSET_WITHIN if flat else _ONSET_WITHIN)
        if recovered is not None:
            # A relapse, from the level to which the plays had come back.
            level = recovered.frozen.level * expected / recovered.frozen.expected(since, past)
            frozen, first = replace(recovered.frozen, level=level), max(first, recovered.first)
        else:
            season = math.nan if flat else past.season(since)
            frozen = Frozen(since, expected, season if season > 0 else None, observation.dispersion)
        return replace(frozen, onset=_onset(frozen, first, minute, past))

    def _open(self, suspicion: Suspicion, minute: Minute, past: Past) -> Incident | None:
        frozen = suspicion.frozen
        if self.state.recovered is None:
            frozen = _before(frozen.onset, frozen, suspicion.limit, past)
        over = min(_WINDOWS[0][0], minute - frozen.onset + 1)
        self.state = TrackerState(open=_opened(suspicion, frozen, past, over=over))
        return self.incident(past)

    # ---- an open incident ----

    def _follow(self, found: Open, minute: Minute, past: Past) -> Incident | None:
        """Compare a minute with the frozen baseline; the incident if it ends with it."""
        frozen = found.frozen
        found = _settled(found, minute - REVISABLE, past)
        expected = frozen.expected(minute, past)
        compared = _compare(frozen, expected, minute, past)
        if compared is None:
            # Too few plays are expected to tell.
            found = replace(found, minute=minute, expected=expected)
            self.state = TrackerState(open=found)
            return self._accept_in_time(found, past)
        plays, in_a_row = compared
        ratio = max(0.0, 1 - plays / expected)
        critical_since = None
        if ratio > self._thresholds.critical:
            consecutive = found.critical_since is not None and minute <= found.minute + 1
            critical_since = found.critical_since if consecutive else minute
        back = found.back + 1 if ratio <= self._thresholds.warning else 0
        found = replace(
            found,
            minute=minute,
            ratio=ratio,
            expected=expected,
            plays=plays,
            worst=max(found.worst, (ratio, minute, expected), key=lambda each: each[0]),
            critical_since=critical_since,
            critical_at=_critical_at(critical_since, minute) if found.critical_at is None else found.critical_at,
            back=back,
        )
        self.state = TrackerState(open=found)
        if back >= in_a_row and minute >= found.opened + BACK_FOR:
            ended = self.incident(past, IncidentState.ENDED)
            self.state = TrackerState(recovered=Recovered(frozen, minute - back + 1, minute + AFTERWARDS))
            return ended
        return self._accept_in_time(found, past)

    def _accept_in_time(self, found: Open, past: Past) -> Incident | None:
        """The incident if it has lasted for so long that it is accepted."""
        if (found.minute - found.frozen.onset) * MINUTE < self._thresholds.accept_after:
            return None
        accepted = self.incident(past, IncidentState.ACCEPTED)
        self.state = TrackerState()
        return accepted


def _compare(frozen: Frozen, expected: float, minute: Minute, past: Past) -> tuple[float, int] | None:
    """The mean plays a minute now, and for how many minutes in a row they must be back; None if nobody could tell."""
    plays, present, in_a_row = 0.0, 0, 0
    since_onset = minute - frozen.onset + 1
    for length, in_a_row in _WINDOWS:  # noqa: B007 - the last one is used if none has enough
        plays, present = past.window(minute, min(length, since_onset))
        if expected * present >= _ENOUGH * frozen.noise:
            break
    if not present or expected * present < _LEAST * frozen.noise:
        return None
    return plays / present, in_a_row


def _opened(suspicion: Suspicion, frozen: Frozen, past: Past, *, over: int) -> Open:
    """The incident that a suspicion becomes; its plays are the mean over so many minutes."""
    minute = suspicion.newest
    expected = frozen.expected(minute, past)
    plays, present = past.window(minute, over)
    return Open(
        frozen,
        opened=minute,
        minute=minute,
        ratio=suspicion.ratio,
        expected=expected,
        plays=plays / present if present else 0.0,
        worst=(suspicion.ratio, minute, expected),
        critical_since=suspicion.critical_since,
        critical_at=_critical_at(suspicion.critical_since, minute),
        back=0,
        settled=frozen.onset - 1,
        lost=0.0,
    )


def _critical_at(since: Minute | None, minute: Minute) -> Minute | None:
    """The minute if the critical alert begins in it: its threshold has been exceeded since then."""
    return minute if since is not None and minute >= since + PENDING else None


def _settled(found: Open, until: Minute, past: Past) -> Open:
    """The incident with what is missing up to a minute, which is not revised any more."""
    if until <= found.settled:
        return found
    return replace(found, settled=until, lost=found.lost + sum(_missing(found.frozen, found.settled + 1, until, past)))


def _missing(frozen: Frozen, first: Minute, last: Minute, past: Past) -> Iterator[float]:
    """What each minute that is present is missing; less than 0 if it has more than expected."""
    for minute in range(first, last + 1):
        plays, present = past.window(minute, 1)
        if present:
            yield frozen.expected(minute, past) - plays


def _onset(frozen: Frozen, first: Minute, last: Minute, past: Past) -> Minute:
    """The minute from which on the plays up to `last` are likeliest to be of a lower mean than expected."""
    best, onset = 0.0, last
    plays = expected = 0.0
    for minute in range(last, first - 1, -1):
        played, present = past.window(minute, 1)
        if not present:
            continue
        plays += played
        expected += frozen.expected(minute, past)
        if plays < expected and (evidence := evidence_of(plays, expected)) > best:
            best, onset = evidence, minute
    return onset


def _before(onset: Minute, suspected: Frozen, limit: float | None, past: Past) -> Frozen:
    """The baseline at the onset.

    A drop that was found late had already lowered the recent plays that it was compared with. Those before its onset
    are not lowered.
    """
    level = suspected.expected(onset, past)
    recent = [plays / present for length in (30, 60) for plays, present in [past.window(onset - 1, length)] if present]
    if recent:
        level = max(level, min([*recent, *([] if limit is None else [limit])]))
    season = past.season(onset)
    known = suspected.season is not None and season > 0
    return Frozen(onset, level, season if known else None, suspected.noise)
