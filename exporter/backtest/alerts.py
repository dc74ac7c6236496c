"""Backtest the drop alerts on recorded plays: the daemon's detector, on all minutes at once. Pure.

Media are apart from each other but for two sums over all of them by minute, so the work is done in two steps: first
each media's observations, on as many processors as there are, and then, with the sums, the verdicts. Only
observations that show a drop by themselves are kept for the second step: what the other media do can make a drop
smaller, never larger.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from exporter.backtest.plays_csv import Recording
from exporter.drops.baseline import Baseline, Observation
from exporter.drops.detector import KEPT, Alarm, Together, judge
from exporter.drops.packed import HELD
from exporter.model import DAY_MINUTES, Minute
from exporter.views import Verdict

# Between rows of a media that are not further away than this, a missing one is a gap; else the media was not there.
GAP = 60

# Minutes that are taken at a time. Each observation is an object, and they are gone before the next ones are made.
_BATCH = DAY_MINUTES


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
    """

    media_id: str
    severity: str
    start: Minute
    end: Minute
    ratio: float
    expected: float
    actual: float


@dataclass(frozen=True, slots=True)
class Scanned:
    """One media after the first step.

    Attributes:
        media_id: The media.
        suspects: The observations with a drop above the threshold, oldest first.
        plain: For a picture, `r5` and the forecast of each minute of the recording, not a number where unknown; else
            empty.
    """

    media_id: str
    suspects: Sequence[Observation]
    plain: tuple[Sequence[float], Sequence[float]] = ((), ())


def scan(recording: Recording, threshold: float | None, sums: Together, *, plain: bool = False) -> Scanned:
    """The first step for one media.

    Args:
        recording: Its plays.
        threshold: Keep observations with a larger drop ratio; None keeps none.
        sums: The media is added to these.
        plain: Whether every minute is needed for a picture.
    """
    suspects: list[Observation] = []
    r5s, forecasts = array("d"), array("d")
    baseline = Baseline()
    for first, plays in _runs(recording):
        for observation in baseline.take(first, plays):
            sums.add(observation)
            if threshold is not None and (verdict := judge(observation)) is not None and verdict.ratio > threshold:
                suspects.append(observation)
            if plain:
                r5s.append(observation.r5)
                forecasts.append(math.nan if observation.forecast is None else observation.forecast)
    return Scanned(recording.media_id, suspects, (r5s, forecasts))


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


def verdicts(scanned: Scanned, sums: Together) -> Iterator[Verdict]:
    """The verdicts on the suspects of a media or the whole merchant, with the sums of all media."""
    for observation in scanned.suspects:
        if scanned.media_id or sums.broad(observation.minute):
            verdict = judge(observation, sums.factor(observation) if scanned.media_id else 1.0)
            if verdict is not None:
                yield verdict


def expected(recording: Recording, scanned: Scanned, sums: Together) -> Sequence[float]:
    """The plays expected in each minute of a recording, not a number where nothing was."""
    r5s, forecasts = scanned.plain
    if not scanned.media_id:
        return forecasts
    return [
        forecast * sums.factor(Observation(minute, r5, forecast, 1.0, (), ()))
        for minute, r5, forecast in zip(recording.minutes, r5s, forecasts, strict=True)
    ]


def fired_alerts(
    recording: Recording, drops: Sequence[Verdict], thresholds: Mapping[str, float], last: Minute
) -> Iterator[Alert]:
    """When the alerts of one media would have fired.

    Args:
        recording: The plays.
        drops: The minutes with a drop, ascending; all others have none, or are missing, which is the same here.
        thresholds: By severity.
        last: The newest minute of all recordings. What still fires then, ends there.
    """
    beyond = Verdict(last + KEPT + 1, 0.0, 0.0, 0.0)
    for severity, threshold in thresholds.items():
        alarm = Alarm(threshold)
        start: Minute = 0
        fired: list[Verdict] = []
        for drop in (*drops, beyond):
            change = alarm.step(drop.minute, drop.ratio)
            if change is not None and not change.firing:
                worst = max(fired, key=lambda each: each.ratio)
                actual = recording.plays[bisect_left(recording.minutes, worst.minute)]
                end = min(change.minute, last)
                yield Alert(recording.media_id, severity, start, end, worst.ratio, worst.expected, actual)
                fired = []
            if change is not None and change.firing:
                start = change.minute
            if alarm.firing:
                fired.append(drop)
