"""Backtest the drop alerts on recorded plays: the daemon's detector, on all minutes at once. Pure.

Media are apart from each other but for two sums over all of them by minute, so the work is done in two steps: first
each media's observations, on as many processors as there are, and then, with the sums, the verdicts. Only
observations that show a drop by themselves are kept for the second step: what the other media do can make a drop
smaller, never larger.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from exporter.backtest.plays_csv import Recording
from exporter.drops.baseline import Baseline, Observation
from exporter.drops.detector import Together, judge
from exporter.drops.packed import HELD
from exporter.drops.tracker import Tracker
from exporter.model import Minute
from exporter.views import Incident, IncidentState, Thresholds

# Between rows of a media that are not further away than this, a missing one is a gap; else the media was not there.
GAP = 60

# Minutes that are taken at a time. Each observation is an object, and they are gone before the next ones are made.
_BATCH = 60


@dataclass(frozen=True, slots=True)
class Alert:
    """One firing of a drop alert, from its start to its end.

    Attributes:
        media_id: The media, or "" for the whole merchant.
        severity: `warning`, `critical`, or `merchant`.
        start: The minute in which it begins to fire.
        end: The minute in which it stops.
        ratio: Of its worst minute, the share of the expected plays that was missing.
        expected: The plays that were expected in that minute.
        actual: The plays that it had.
        onset: The first minute of the drop.
        lost: The plays that were expected from the onset to the end, minus those counted.
        state: `ended`, `accepted` as the new level, or `open` at the end of the recordings.
    """

    media_id: str
    severity: str
    start: Minute
    end: Minute
    ratio: float
    expected: float
    actual: float
    onset: Minute
    lost: float
    state: IncidentState


@dataclass(frozen=True, slots=True)
class Scanned:
    """One media after the first step.

    Attributes:
        media_id: The media.
        suspects: The observations with a drop above the threshold, oldest first.
        season: What is usual in each minute of the recording, not a number where unknown; empty without a threshold.
        forecasts: The forecast of each minute of the recording, not a number where unknown; empty without a threshold
            and without a picture.
        r5s: For a picture, `r5` of each minute of the recording; else empty.
    """

    media_id: str
    suspects: Sequence[Observation]
    season: Sequence[float]
    forecasts: Sequence[float] = ()
    r5s: Sequence[float] = ()


def scan(recording: Recording, threshold: float | None, sums: Together, *, plain: bool = False) -> Scanned:
    """The first step for one media.

    Args:
        recording: Its plays.
        threshold: Keep observations with a larger drop ratio; None keeps none.
        sums: The media is added to these.
        plain: Whether every minute is needed for a picture.
    """
    suspects: list[Observation] = []
    r5s, forecasts, season = array("d"), array("d"), array("d")
    baseline = Baseline()
    for first, plays in _runs(recording):
        for observation in baseline.take(first, plays):
            sums.add(observation)
            if threshold is not None:
                season.append(baseline.season(observation.minute))
                if (verdict := judge(observation)) is not None and verdict.ratio > threshold:
                    suspects.append(observation)
            if plain:
                r5s.append(observation.r5)
            if plain or threshold is not None:
                forecasts.append(math.nan if observation.forecast is None else observation.forecast)
    return Scanned(recording.media_id, suspects, season, forecasts, r5s)


def _runs(recording: Recording) -> Iterator[tuple[Minute, list[float | None]]]:
    """The minutes in runs, with None for those missing; between two runs there may be more of them."""
    first: Minute = 0
    run: list[float | None] = []
    for minute, plays in zip(recording.minutes, recording.plays, strict=True):
        missing = minute - first - len(run)
        if run and (missing > HELD or len(run) >= _BATCH):
            yield first, run
            run = []
        if run:
            run += [None] * missing
        else:
            first = minute
        run.append(plays)
    if run:
        yield first, run


def whole_merchant(recordings: Iterable[Recording]) -> Recording:
    """The plays of all media together. A minute is not known where a media has a gap, or where none has a row."""
    sums: dict[Minute, float] = {}
    unknown: set[Minute] = set()
    for recording in recordings:
        for minute, plays in zip(recording.minutes, recording.plays, strict=True):
            sums[minute] = sums.get(minute, 0.0) + plays
        for before, after in pairwise(recording.minutes):
            if after - before > 1:
                unknown.update(range(max(before + 1, after - GAP), min(after - 1, before + GAP) + 1))
    minutes = array("q", sorted(sums.keys() - unknown))
    return Recording("", minutes, array("d", map(sums.__getitem__, minutes)))


class Recorded:
    """The plays and the season of a recording, as the tracker reads them."""

    def __init__(self, recording: Recording, season: Sequence[float]) -> None:
        """Create it; `season` is of the same minutes."""
        self._minutes, self._season = recording.minutes, season
        self._sums = array("d", accumulate(recording.plays, initial=0.0))

    def season(self, minute: Minute) -> float:
        """See `exporter.drops.tracker.Past`."""
        place = bisect_left(self._minutes, minute)
        known = place < len(self._minutes) and self._minutes[place] == minute
        return self._season[place] if known else math.nan

    def window(self, last: Minute, length: int) -> tuple[float, int]:
        """See `exporter.drops.tracker.Past`."""
        begin, end = bisect_right(self._minutes, last - length), bisect_right(self._minutes, last)
        return self._sums[end] - self._sums[begin], end - begin


@dataclass(slots=True)
class Drops:
    """The second step for one media: its incidents.

    Attributes:
        incidents: In order of their onset.
        expected: Minute -> the plays expected in it, of the minutes of all incidents from their onsets on.
        open: The same of the minutes in which they were known.
    """

    incidents: list[Incident] = field(default_factory=list)
    expected: dict[Minute, float] = field(default_factory=dict)
    open: dict[Minute, float] = field(default_factory=dict)


def track(recording: Recording, scanned: Scanned, thresholds: Thresholds, sums: Together) -> Drops:
    """Follow the drops of a media, or of the whole merchant, with the sums of all media."""
    minutes, past = recording.minutes, Recorded(recording, scanned.season)
    tracker, drops = Tracker(recording.media_id, thresholds), Drops()
    suspects = {observation.minute: observation for observation in scanned.suspects}
    starts = sorted(suspects)
    place = 0
    while place < len(minutes):
        minute = minutes[place]
        if not tracker.is_open and tracker.state.recovered is None and minute not in suspects:
            # Nothing happens until the next minute with a drop.
            at = bisect_right(starts, minute)
            if at == len(starts):
                break
            place = bisect_left(minutes, starts[at])
            continue
        place += 1
        observation = suspects.get(minute) or Observation(minute, 0.0, None, 1.0, (), ())
        verdict = tracker.judge(observation, sums.factor(observation) if recording.media_id else 1.0, past)
        if verdict is not None and not recording.media_id and not sums.broad(minute):
            verdict = verdict._replace(ratio=0.0)
        changed = tracker.step(observation, verdict, past)
        if changed is not None and changed.state is not IncidentState.OPEN:
            drops.incidents.append(changed)
        now = tracker.state.open
        if now is not None:
            first = now.frozen.onset if changed is not None else minute
            drops.expected.update(dict.fromkeys(range(first, minute + 1), now.expected))
            drops.open[minute] = now.expected
    if tracker.is_open and (still := tracker.incident(past)) is not None:
        drops.incidents.append(still)
    return drops


def expected(recording: Recording, scanned: Scanned, sums: Together, drops: Drops) -> Sequence[float]:
    """The plays expected in each minute of a recording, not a number where nothing was."""

    def of(minute: Minute, r5: float, forecast: float) -> float:
        if minute in drops.expected:
            return drops.expected[minute]
        return forecast * sums.factor(Observation(minute, r5, forecast, 1.0, (), ())) if scanned.media_id else forecast

    return [of(*each) for each in zip(recording.minutes, scanned.r5s, scanned.forecasts, strict=True)]


def compare_with_frozen(recording: Recording, scanned: Scanned, drops: Drops, sums: Together) -> None:
    """Let the sums of all media have what was expected before the drops of one, in place of its sunken forecasts."""
    past = Recorded(recording, ())
    for minute, frozen in drops.open.items():
        forecast = scanned.forecasts[bisect_left(recording.minutes, minute)]
        plays, present = past.window(minute, 5)
        r5 = plays / present if present > 1 else 0.0
        sums.replace(minute, r5, 0.0 if math.isnan(forecast) else forecast, frozen)


def fired_alerts(recording: Recording, incidents: Iterable[Incident], last: Minute) -> Iterator[Alert]:
    """When the alerts of one media would have fired.

    Args:
        recording: The plays.
        incidents: Its drops.
        last: The newest minute of all recordings. What still fires then, ends there.
    """
    for incident in incidents:
        end = last if incident.state is IncidentState.OPEN else incident.minute
        actual = recording.plays[bisect_left(recording.minutes, incident.worst_minute)]
        starts: list[tuple[str, Minute | None]] = [("merchant", incident.opened)]
        if incident.media_id:
            starts = [("warning", incident.opened), ("critical", incident.critical_at)]
        for severity, start in starts:
            if start is not None:
                yield Alert(
                    recording.media_id,
                    severity,
                    start,
                    end,
                    incident.worst,
                    incident.worst_expected,
                    actual,
                    incident.onset,
                    incident.lost,
                    incident.state,
                )
