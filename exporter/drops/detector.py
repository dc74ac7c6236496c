"""The play-count drop detector: what the observation of a minute says about a drop. The rule is docs/drop-detection.md.

Everything is in data time: minutes whose plays have arrived. What is late or missing is never a drop.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from exporter.drops.baseline import SUSTAINED_SHARE, Observation
from exporter.model import Minute
from exporter.views import Verdict

# What chance may do is left out: plays down to this share of the expectation are no evidence.
_TOLERATED = 0.9
# The evidence that a drop needs: a logarithm of a likelihood ratio.
_EVIDENCE = 9.0

# A drop that is sustained needs less evidence, but must be deep, and not of a quiet media: their lulls are long.
_SUSTAINED_EVIDENCE, _SUSTAINED_RATIO, _SUSTAINED_EXPECTED = 7.0, 1 - SUSTAINED_SHARE, 4.0

# The least that is expected because all media fall together.
_FACTOR_LEAST = 0.6
# All media fall suddenly, where they are below this share of what they were so many minutes earlier.
_SUDDEN, _EARLIER = 0.7, 10

# A running live event drops when its last 3 or 6 minutes are this far below the 10 before them.
_LIVE_RATIO = 0.7
_LIVE_LEAST = 5

# A media takes part in a drop of the whole merchant when it is below this share of its forecast.
_BROAD = 0.65


def judge(observation: Observation, factor: float = 1.0) -> Verdict | None:
    """Judge a minute of a media that is always on, or of the whole merchant; None if too little is known.

    Args:
        observation: The minute.
        factor: By how much less is expected, because the merchant's other media have less than they let expect.
    """
    if observation.forecast is None:
        return None
    expected = observation.forecast * factor
    ratio, evidence = judge_windows(observation.windows, expected, observation.dispersion)
    for plays, present, forecast in observation.sustained:
        before = forecast * factor
        tolerated = before * _TOLERATED * present
        if before < _SUSTAINED_EXPECTED or plays >= tolerated:
            continue
        missing = 1 - plays / (before * present)
        found = evidence_of(plays, tolerated) / observation.dispersion
        if missing > max(ratio, _SUSTAINED_RATIO) and found > _SUSTAINED_EVIDENCE:
            ratio, evidence, expected = missing, found, before
    return Verdict(observation.minute, ratio, evidence, expected)


def judge_windows(windows: Iterable[tuple[float, int]], expected: float, dispersion: float) -> tuple[float, float]:
    """Judge windows of plays and minutes present against what is expected in each minute.

    Returns:
        The largest ratio with enough evidence, else 0; and the evidence.
    """
    tolerated = expected * _TOLERATED
    ratio = evidence = 0.0
    for plays, present in windows:
        if plays >= tolerated * present:
            continue
        found = evidence_of(plays, tolerated * present) / dispersion
        missing = 1 - plays / (expected * present)
        if found <= _EVIDENCE:
            if not ratio:
                evidence = max(evidence, found)
        elif missing > ratio:
            ratio, evidence = missing, found
    return ratio, evidence


def judge_live(observation: Observation) -> Verdict | None:
    """Judge a minute of a live event by the ten minutes before; None if too little is known.

    The caller knows that the event runs, and has run for long enough that those ten minutes belong to it.
    """
    best: Verdict | None = None
    for plays, present, before, before_present in observation.live:
        if not present or before_present < _LIVE_LEAST:
            continue
        expected = before / before_present
        tolerated = expected * _TOLERATED * present
        ratio = evidence = 0.0
        if plays < tolerated:
            evidence = evidence_of(plays, tolerated) / observation.dispersion
            missing = 1 - plays / (expected * present)
            ratio = missing if missing > _LIVE_RATIO and evidence > _EVIDENCE else 0.0
        if best is None or ratio > best.ratio:
            best = Verdict(observation.minute, ratio, evidence, expected)
    return best


def evidence_of(plays: float, expected: float) -> float:
    """The logarithm of how much likelier so few plays are if they are the mean than if more were expected."""
    return expected - plays + (plays * math.log(plays / expected) if plays else 0.0)


def broad(observations: Iterable[Observation]) -> bool:
    """Whether a drop of the whole merchant is one of many media: of those with more than half of the forecast plays.

    Args:
        observations: One minute of each media.
    """
    all_media = dropped = 0.0
    for observation in observations:
        if observation.forecast is not None:
            all_media += observation.forecast
            if _is_low(observation):
                dropped += observation.forecast
    return dropped > all_media / 2


def _is_low(observation: Observation) -> bool:
    """Whether a media takes part in a drop of the whole merchant."""
    return observation.forecast is not None and observation.r5 < _BROAD * observation.forecast


@dataclass(slots=True)
class Together:
    """What all media of a merchant that are always on have, and what they let expect, by minute of data.

    Attributes:
        most: How many minutes are kept: the newest.
        by_minute: The sums of r5, of the forecasts, and of the forecasts of those media that take part in a drop.
    """

    most: float = math.inf
    by_minute: dict[Minute, tuple[float, float, float]] = field(default_factory=dict)

    def add(self, observation: Observation) -> None:
        """Add a minute of one media."""
        forecast = observation.forecast
        if forecast is not None:
            self._add(observation.minute, observation.r5, forecast, forecast if _is_low(observation) else 0.0)

    def merge(self, other: "Together") -> None:
        """Add other media's sums."""
        for minute, sums in other.by_minute.items():
            self._add(minute, *sums)

    def _add(self, minute: Minute, r5: float, forecast: float, low: float) -> None:
        sums = self.by_minute.get(minute, (0.0, 0.0, 0.0))
        self.by_minute[minute] = sums[0] + r5, sums[1] + forecast, sums[2] + low
        if len(self.by_minute) > self.most:
            del self.by_minute[min(self.by_minute)]

    def replace(self, minute: Minute, r5: float, forecast: float, expected: float) -> None:
        """Let more be expected of a media than its forecast, which was added: 0 if it was not."""
        sums = self.by_minute.get(minute)
        if sums is None:
            return
        before, after = (each if r5 < _BROAD * each else 0.0 for each in (forecast, expected))
        self.by_minute[minute] = sums[0], sums[1] - forecast + expected, sums[2] - before + after

    def broad(self, minute: Minute) -> bool:
        """As the function `broad`, of all media in one minute."""
        _, forecast, low = self.by_minute.get(minute, (0.0, 0.0, 0.0))
        return low > forecast / 2

    def factor(self, observation: Observation) -> float:
        """By how much less is to be expected of a media, because the others have less: 0.6 to 1.

        Args:
            observation: A minute of the media, which has been added.
        """
        now = self.by_minute.get(observation.minute)
        if now is None or observation.forecast is None:
            return 1.0
        others = now[1] - observation.forecast
        if others <= 0:
            return 1.0
        # A holiday comes slowly. An outage of all media does not, and must not hide itself.
        earlier = self.by_minute.get(observation.minute - _EARLIER)
        if earlier is not None and now[0] * earlier[1] < _SUDDEN * earlier[0] * now[1]:
            return 1.0
        return min(1.0, max(_FACTOR_LEAST, (now[0] - observation.r5) / others))
