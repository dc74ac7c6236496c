"""What the drop detector remembers of one media's plays, and what a minute of them shows.

A baseline takes the plays of consecutive minutes. It keeps the last two hours by minute, and weeks as steps: means of
five minutes. From both it forecasts each minute, at a cost that does not grow with the history. The rule is
docs/drop-detection.md; here are its parts about one media alone: recent level, season, level, forecast, own noise.
"""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from exporter.drops.dispersion import Dispersion
from exporter.drops.level import LEVEL_STEPS, Level
from exporter.drops.minute_ring import MinuteRing
from exporter.drops.packed import HELD, Packed, RecentMinutes
from exporter.drops.packed import MASK as _MASK
from exporter.drops.seasonal import DAY_STEPS, STEP, UNKNOWN, SeasonalProfile, median_of_sorted
from exporter.model import DAY_MINUTES, Minute

# How far back, in minutes, a revised value still changes the steps. All that they are made of must be held.
REVISABLE = 60

# The forecast is at most so much above the median of an hour's steps, of which so many must be known: a short burst
# raises it no further.
_HOUR_LEAST, _ABOVE_MEDIAN = 6, 1.1

# A drop of the plays to less than this share may be seen over these windows, in minutes, against what was before them.
SUSTAINED_SHARE = 0.35
# An alert must begin while the drop lasts: of one of 15 minutes, 13 are there two minutes before its end.
_SUSTAINED = (10, 13, 15, 20, 30)

# There more than the season is believed of plays that were there for an hour, but not much more: bursts end.
_ABOVE_SEASON = 1.1


class Observation(NamedTuple):
    """What one minute with known plays shows. Windows end with the minute; their plays are of the minutes present.

    A tuple, because one is made for each media and minute.

    Attributes:
        minute: The minute.
        r5: The mean plays a minute of the last 5 minutes; 0 where there are fewer than 2.
        forecast: The plays a minute that the baseline's own past predicts; None if too little is known for a verdict.
        dispersion: By how much the variance of the plays is more than that of independent viewers; at least 1.
        windows: Plays and minutes present of the last 5, 10 and 30 minutes.
        live: Plays and minutes present of the last 3 minutes and of the 10 before them, then of the last 6 and of the
            10 before these.
        sustained: Plays and minutes present of the last 10, 13, 15, 20 and 30 minutes, and what is forecast from the
            time before these; of those windows alone that have few plays.
        seasonal: The plays a minute that the season and the level alone predict; not a number where unknown.
    """

    minute: Minute
    r5: float
    forecast: float | None
    dispersion: float
    windows: Sequence[tuple[float, int]]
    live: Sequence[tuple[float, int, float, int]]
    sustained: Sequence[tuple[float, int, float]] = ()
    seasonal: float = UNKNOWN


class Baseline:
    """The plays of one media, or of the whole merchant, as far back as the detector needs. Not safe for threads."""

    __slots__ = (
        "_dispersion",
        "_level",
        "_medians",
        "_ring",
        "_steps",
        "_usual",
        "newest",
    )

    def __init__(self) -> None:
        """Make one that knows nothing."""
        self.newest: Minute | None = None
        self._steps = SeasonalProfile()
        self._dispersion = Dispersion()
        self._level = Level()
        # By step, modulo their length: the season's means, from those that the level needs to those of the next step.
        self._usual = array("d", [UNKNOWN]) * (LEVEL_STEPS * 2)
        # By the step that ends the hour, modulo their length.
        self._medians = array("d", [UNKNOWN]) * 16
        self._ring = MinuteRing()

    # Taking minutes.

    def take(self, first: Minute, plays: Sequence[float | None]) -> list[Observation]:
        """Take the plays of consecutive minutes.

        Minutes that were taken before are revised, if they are at most an hour old; there None is no news. Minutes
        between the newest and `first` are missing.

        Args:
            first: The minute of the first value.
            plays: The plays of each minute; None if they are not known.

        Returns:
            What each minute shows that was not taken before and is not missing, oldest first.
        """
        newest = self.newest
        if newest is None or first > newest + HELD:
            newest = first - 1
            self._jump(newest)
        for _ in range(newest + 1, first):
            self._append(None)
        old = newest - first + 1
        if old > 0:
            self._revise(first, plays[:old])
            plays = plays[old:]
        return [observation for value in plays if (observation := self._append(value)) is not None]

    def _append(self, plays: float | None) -> Observation | None:
        minute = (self.newest or 0) + 1
        self.newest = minute
        here, before = minute & _MASK, (minute - 1) & _MASK
        ring = self._ring
        sums, counts = ring.sums, ring.counts
        observation = None
        if plays is None:
            ring.plays[here] = ring.expected[here] = UNKNOWN
            sums[here], counts[here] = sums[before], counts[before]
        else:
            ring.plays[here] = plays
            sums[here], counts[here] = sums[before] + plays, counts[before] + 1
            observation = self._observe(minute)
            ring.expected[here] = UNKNOWN if observation.forecast is None else observation.forecast
        if minute % STEP == STEP - 1:
            step = minute // STEP
            self._close(step)
            self._usual[(step + 4) % len(self._usual)] = self._steps.usual(step + 4)
            self._level.update(step)
        return observation

    def _observe(self, minute: Minute) -> Observation:
        ring = self._ring
        sums, counts = ring.sums, ring.counts
        plays, count = sums[minute & _MASK], counts[minute & _MASK]
        at = (minute - 5) & _MASK
        plays5, count5 = plays - sums[at], count - counts[at]
        at = (minute - 10) & _MASK
        plays10, count10 = plays - sums[at], count - counts[at]
        at = (minute - 30) & _MASK
        windows = (plays5, count5), (plays10, count10), (plays - sums[at], count - counts[at])
        at, before = (minute - 3) & _MASK, (minute - 13) & _MASK
        live3 = plays - sums[at], count - counts[at], sums[at] - sums[before], counts[at] - counts[before]
        at, before = (minute - 6) & _MASK, (minute - 16) & _MASK
        live6 = plays - sums[at], count - counts[at], sums[at] - sums[before], counts[at] - counts[before]
        live = live3, live6
        noise = self._dispersion.excess
        if count5 < 2:
            return Observation(minute, 0.0, None, noise or 1.0, windows, live)
        r5 = plays5 / count5
        recent = self._recent(minute - 10) if noise is not None else math.inf
        if noise is None or recent == math.inf:
            return Observation(minute, r5, None, noise or 1.0, windows, live)
        seasonal = self.season(minute) * self._level.value
        most = _ABOVE_SEASON * seasonal
        sustained: list[tuple[float, int, float]] = []
        for length in _SUSTAINED:
            at = (minute - length) & _MASK
            few, present = plays - sums[at], count - counts[at]
            # So most minutes end here. A season that is not known is no number.
            if few >= SUSTAINED_SHARE * most * present:
                continue
            if (earlier := self._recent(minute - length)) != math.inf:
                sustained.append((few, present, min(earlier, most)))
        # A season that is not known is never the smaller.
        return Observation(minute, r5, min(recent, seasonal), noise, windows, live, sustained, seasonal)

    def _recent(self, minute: Minute) -> float:
        """What the half hour and the hour that end with a minute let expect: the least; infinite if not known."""
        ring = self._ring
        sums, counts = ring.sums, ring.counts
        plays, count = sums[minute & _MASK], counts[minute & _MASK]
        recent = math.inf
        at = (minute - 30) & _MASK
        if (present := count - counts[at]) >= 5:
            recent = (plays - sums[at]) / present
        at = (minute - 60) & _MASK
        if (present := count - counts[at]) >= 10:
            recent = min(recent, (plays - sums[at]) / present)
        # Not a number where it is not known, and then never the smaller.
        return min(recent, _ABOVE_MEDIAN * self._medians[((minute + 1) // STEP - 1) % len(self._medians)])

    # Reading the last hours.

    def season(self, minute: Minute) -> float:
        """The plays a minute that are usual at the time of one of the last minutes; not a number where unknown."""
        step, offset = divmod(minute, STEP)
        usual = self._usual
        # Means of 30 minutes, centred half a minute before the step and half a minute before the next one.
        before, after = usual[(step + 2) % len(usual)], usual[(step + 3) % len(usual)]
        if before != before:  # noqa: PLR0124 - not a number
            return after
        if after != after:  # noqa: PLR0124
            return before
        return before + (after - before) * (offset + 0.5) / STEP

    def window(self, last: Minute, length: int) -> tuple[float, int]:
        """Plays and minutes present of the `length` minutes that end with `last`, of the newest two hours.

        Minutes that are not held are not present.
        """
        newest = self.newest
        if newest is None:
            return 0.0, 0
        last, before = min(last, newest), max(last - length, newest - HELD + 1)
        if before >= last:
            return 0.0, 0
        ring = self._ring
        here, at = last & _MASK, before & _MASK
        return ring.sums[here] - ring.sums[at], ring.counts[here] - ring.counts[at]

    def _revise(self, first: Minute, plays: Sequence[float | None]) -> None:
        newest = self.newest or 0
        changed = self._ring.revise(first, plays, newest, REVISABLE)
        if changed is None:
            return
        last = (newest + 1) // STEP - 1
        for step in range(changed // STEP, last + 1):
            self._close(step)
        self._level.update(last)

    def _jump(self, newest: Minute) -> None:
        """Go on after a gap that is longer than what is held."""
        last = (newest + 1) // STEP - 1
        if self.newest is not None:
            first = max((self.newest + 1) // STEP, last - DAY_STEPS + 1)
            for step in range(first, last + 1):
                self._dispersion.put(step, UNKNOWN)
        self.newest = newest
        self._ring = MinuteRing()
        self._steps.prune(newest // DAY_MINUTES)
        self._rebuild()

    # SeasonalProfile.

    def _close(self, step: int) -> None:
        """Put down what the five minutes of a step and the half hour that ends with them show."""
        last = step * STEP + STEP - 1
        ring = self._ring
        sums, counts = ring.sums, ring.counts
        plays, count = sums[last & _MASK], counts[last & _MASK]
        at = (last - STEP) & _MASK
        if present := count - counts[at]:
            self._steps.put(step, (plays - sums[at]) / present)
        self._level.put(step, self._steps.half_hour(step), self._usual[step % len(self._usual)])
        self._find_median(step)
        # The five minutes in the middle of the half hour, against its mean.
        at, start, end = (last - 30) & _MASK, (last - 18) & _MASK, (last - 13) & _MASK
        sample = UNKNOWN
        if (present := count - counts[at]) >= 5:
            expected = (plays - sums[at]) / present * (counts[end] - counts[start])
            if expected > 0:
                sample = (sums[end] - sums[start] - expected) ** 2 / expected
        self._dispersion.put(step, sample)

    def _find_median(self, step: int) -> None:
        """Find the median of the steps of the hour that ends with a step."""
        sums, counts = self._ring.sums, self._ring.counts
        last = step * STEP + STEP - 1
        means = []
        for end in range(last, last - 60, -STEP):
            here, before = end & _MASK, (end - STEP) & _MASK
            if present := counts[here] - counts[before]:
                means.append((sums[here] - sums[before]) / present)
        means.sort()
        self._medians[step % len(self._medians)] = median_of_sorted(means) if len(means) >= _HOUR_LEAST else UNKNOWN

    def _rebuild(self) -> None:
        """Work out from the steps what is kept of them beside them."""
        if self.newest is None:
            return
        last = (self.newest + 1) // STEP - 1
        for step in range(last - LEVEL_STEPS + 1, last + 5):
            self._usual[step % len(self._usual)] = self._steps.usual(step)
        for step in range(last - LEVEL_STEPS + 1, last + 1):
            self._level.put(step, self._steps.half_hour(step), self._usual[step % len(self._usual)])
        for step in range(last - _SUSTAINED[-1] // STEP - 1, last + 1):
            self._find_median(step)
        self._level.update(last)

    # History, and what is shown and kept.

    def fill(self, hours: Mapping[Minute, float]) -> None:
        """Fill the steps that are not known with the plays of whole hours, interpolated between their centres.

        Args:
            hours: First minute of a whole hour -> the plays in it. Those that had not ended by the newest minute are
                left out.
        """
        if self.newest is not None:
            hours = {first: plays for first, plays in hours.items() if first + 60 <= self.newest + 1}
        if not hours:
            return
        today = (max(hours) if self.newest is None else self.newest) // DAY_MINUTES
        self._steps.fill(hours, today)
        self._rebuild()

    @property
    def dispersion(self) -> float:
        """By how much the variance of the plays is more than that of independent viewers; 1 while it is not known."""
        return self._dispersion.excess or 1.0

    def begun_with(self, first: Minute, plays: Sequence[float | None]) -> "tuple[Baseline, Observation | None]":
        """The baseline as it would be if it had taken these minutes first, and what its newest minute then shows.

        The days before them stay.
        """
        days = {day: steps for day, steps in self._steps.pack().items() if day <= first // DAY_MINUTES}
        begun = Baseline()
        begun._steps = SeasonalProfile(days)
        begun._steps.changed.update(self.changed_days)
        observations = begun.take(first, plays)
        recent = self.recent_minutes()
        later = [each for each in recent.last(HELD) if each[0] >= first + len(plays)] if recent else []
        if later:
            observations = begun.take(later[0][0], [value for _, value, _ in later])
        return begun, observations[-1] if observations else None

    def show_expected(self, minute: Minute, plays: float) -> None:
        """Let one of the newest minutes be shown with these expected plays, in place of its forecast."""
        if self.newest is not None and self.newest - HELD < minute <= self.newest:
            self._ring.expected[minute & _MASK] = plays

    def recent_minutes(self) -> RecentMinutes | None:
        """A copy of the newest minutes, None before the first."""
        return None if self.newest is None else RecentMinutes(self.newest, self._ring.pack())

    @property
    def changed_days(self) -> set[int]:
        """The days whose steps have changed; cleared by who has written them."""
        return self._steps.changed

    def pack(self, days: Collection[int] | None = None) -> Packed:
        """All that is needed to go on later.

        Args:
            days: The days to pack; without it, all.
        """
        return Packed(self.recent_minutes(), self._dispersion.pack(), self._steps.pack(days))

    @classmethod
    def unpack(cls, packed: Packed) -> "Baseline":
        """The baseline that was packed; its further verdicts are those of the original.

        Raises:
            ValueError: The bytes are not those of a baseline.
        """
        baseline = cls()
        baseline._steps, baseline._dispersion = SeasonalProfile(packed.days), Dispersion(packed.dispersion)
        if packed.recent is not None:
            baseline.newest = packed.recent.newest
            baseline._ring = MinuteRing.unpack(packed.recent)
            baseline._steps.prune(baseline.newest // DAY_MINUTES)
            baseline._rebuild()
        return baseline
