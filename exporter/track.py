"""What the drop detector remembers of one media's plays, and what a minute of them shows.

A track takes the plays of consecutive minutes. It keeps the last two hours by minute, and weeks as steps: means of
five minutes. From both it forecasts each minute, at a cost that does not grow with the history. The rule is
docs/drop-detection.md; here are its parts about one media alone: recent level, season, level, forecast, own noise.
"""

import math
import struct
from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exporter.model import DAY_MINUTES, Minute

# Whole days of steps that are kept, and the day under way.
HISTORY_DAYS = 22

STEP = 5
DAY_STEPS = DAY_MINUTES // STEP

# Minutes that are kept one by one: a power of two, more than the longest look back, and than a revision reaches.
HELD = 128
_MASK = HELD - 1

# How far back, in minutes, a revised value still changes the steps. All that they are made of must be held.
REVISABLE = 75

# How many days ago the season is looked up.
_LAGS = (1, 2, 3, 4, 5, 6, 7, 14, 21)

# The season is a mean of so many steps.
_SMOOTH = 6

# The level is a median over so many steps, its limits, and after a burst the upper one for so many steps.
_LEVEL_STEPS = 48
_LEVEL_LOW, _LEVEL_HIGH, _LEVEL_AFTER_BURST = 0.5, 1.5, 1.0
_BURST, _BURST_STEPS = 2.5, 24

# A verdict needs so many samples of the noise: an hour. The median of a squared normal variable of variance 1.
_NOISE_LEAST = 12
_NOISE_MEDIAN = 0.4549

_UNKNOWN = math.nan

# A step takes two bytes: the mean in units of 64 plays a minute, with 11 binary digits, up to 4 million plays a minute.
_UNIT, _MOST = 64.0, 65504.0
_MEAN = struct.Struct("<e")
_MEANS = struct.Struct(f"<{_SMOOTH}e")
_UNKNOWN_DAY = _MEAN.pack(_UNKNOWN) * DAY_STEPS


class Look(NamedTuple):
    """What one minute of a track shows. Windows end with the minute; their plays are of the minutes present.

    A tuple, because one is made for each media and minute.

    Attributes:
        minute: The minute.
        r5: The mean plays a minute of the last 5 minutes; 0 where there are fewer than 2.
        forecast: The plays a minute that the track's own past lets expect; None if that is not known well enough for
            a verdict, or if the minute is missing.
        noise: By how much the variance of the plays is more than that of independent viewers; at least 1.
        windows: Plays and minutes present of the last 5, 10 and 30 minutes.
        live: Plays and minutes present of the last 3 minutes, and of the 10 before them. None if the minute is missing.
    """

    minute: Minute
    r5: float
    forecast: float | None
    noise: float
    windows: tuple[tuple[float, int], tuple[float, int], tuple[float, int]]
    live: tuple[float, int, float, int] | None


_NO_WINDOWS = ((0.0, 0), (0.0, 0), (0.0, 0))


@dataclass(frozen=True, slots=True)
class Packed:
    """A track as bytes, for the state file; in this machine's byte order.

    Attributes:
        newest: The newest minute taken; None before the first.
        recent: The minutes held, with what was forecast for them.
        noise: The samples of the noise of the last day.
        days: Day (minute // 1440) -> the steps of that day.
    """

    newest: Minute | None
    recent: bytes
    noise: bytes
    days: Mapping[int, bytes]


class Track:
    """The plays of one media, or of the whole merchant, as far back as the detector looks. Not safe for threads."""

    __slots__ = (
        "_bases",
        "_changed",
        "_counts",
        "_days",
        "_expected",
        "_known",
        "_level",
        "_noise",
        "_noise_order",
        "_phi",
        "_plays",
        "_ratios",
        "_sums",
        "newest",
    )

    def __init__(self) -> None:
        """Make one that knows nothing."""
        self.newest: Minute | None = None
        self._days: dict[int, bytearray] = {}
        self._known = 0
        self._changed: set[int] = set()
        self._noise = array("f", [_UNKNOWN]) * DAY_STEPS
        self._noise_order = array("f")
        self._phi: float | None = None
        self._level = 1.0
        # By step, modulo their length: the season's means, from those that the level needs to those of the next step.
        self._bases = array("d", [_UNKNOWN]) * (_LEVEL_STEPS * 2)
        self._ratios = array("d", [_UNKNOWN]) * _LEVEL_STEPS
        self._hold_nothing()

    def _hold_nothing(self) -> None:
        # By minute, modulo HELD. Plays and minutes present are sums since some beginning: a window is one subtraction.
        self._plays = array("d", [_UNKNOWN]) * HELD
        self._expected = array("f", [_UNKNOWN]) * HELD
        self._sums = array("d", [0.0]) * HELD
        self._counts = array("q", [0]) * HELD

    # Taking minutes.

    def take(self, first: Minute, plays: Sequence[float | None]) -> list[Look]:
        """Take the plays of consecutive minutes.

        Minutes that were taken before are revised, if they are at most 75 minutes old; there None is no news. Minutes
        between the newest and `first` are missing.

        Args:
            first: The minute of the first value.
            plays: The plays of each minute; None if they are not known.

        Returns:
            What each minute shows that was not taken before, oldest first.
        """
        if self.newest is None or first > self.newest + HELD:
            self._jump(first - 1)
        assert self.newest is not None  # noqa: S101 - the line above has set it
        while self.newest < first - 1:
            self._append(None)
        old = self.newest - first + 1
        if old > 0:
            self._revise(first, plays[:old])
            plays = plays[old:]
        return [self._append(value) for value in plays]

    def _append(self, plays: float | None) -> Look:
        minute = (self.newest or 0) + 1
        self.newest = minute
        here, before = minute & _MASK, (minute - 1) & _MASK
        if plays is None:
            self._plays[here] = _UNKNOWN
            self._sums[here], self._counts[here] = self._sums[before], self._counts[before]
            self._expected[here] = _UNKNOWN
            look = Look(minute, 0.0, None, 1.0, _NO_WINDOWS, None)
        else:
            self._plays[here] = plays
            self._sums[here], self._counts[here] = self._sums[before] + plays, self._counts[before] + 1
            look = self._look(minute)
            self._expected[here] = _UNKNOWN if look.forecast is None else look.forecast
        if minute % STEP == STEP - 1:
            step = minute // STEP
            self._close(step)
            self._bases[(step + 4) % len(self._bases)] = self._base(step + 4)
            self._set_level(step)
        return look

    def _look(self, minute: Minute) -> Look:
        sums, counts = self._sums, self._counts
        plays, count = sums[minute & _MASK], counts[minute & _MASK]
        at = (minute - 5) & _MASK
        plays5, count5 = plays - sums[at], count - counts[at]
        at = (minute - 10) & _MASK
        ago, ago_count = sums[at], counts[at]
        windows = (
            (plays5, count5),
            (plays - ago, count - ago_count),
            (plays - sums[(minute - 30) & _MASK], count - counts[(minute - 30) & _MASK]),
        )
        at = (minute - 3) & _MASK
        live3, live3_count = sums[at], counts[at]
        at = (minute - 13) & _MASK
        live = (plays - live3, count - live3_count, live3 - sums[at], live3_count - counts[at])
        r5 = plays5 / count5 if count5 >= 2 else 0.0
        if self._phi is None or count5 < 2:
            return Look(minute, r5, None, self._phi or 1.0, windows, live)
        forecast = math.inf
        at = (minute - 40) & _MASK
        present = ago_count - counts[at]
        if present >= 5:
            forecast = (ago - sums[at]) / present
        at = (minute - 70) & _MASK
        present = ago_count - counts[at]
        if present >= 10:
            forecast = min(forecast, (ago - sums[at]) / present)
        if forecast == math.inf:
            return Look(minute, r5, None, self._phi, windows, live)
        seasonal = self._season(minute) * self._level
        # A season that is not known is no number, and never the smaller.
        forecast = min(forecast, seasonal)
        return Look(minute, r5, forecast, self._phi, windows, live)

    def _season(self, minute: Minute) -> float:
        step, offset = divmod(minute, STEP)
        bases = self._bases
        # Means of 30 minutes, centred half a minute before the step and half a minute before the next one.
        before, after = bases[(step + 2) % len(bases)], bases[(step + 3) % len(bases)]
        if before != before:  # noqa: PLR0124 - not a number
            return after
        if after != after:  # noqa: PLR0124
            return before
        return before + (after - before) * (offset + 0.5) / STEP

    def _revise(self, first: Minute, plays: Sequence[float | None]) -> None:
        newest = self.newest or 0
        changed = newest + 1
        for minute, value in enumerate(plays, first):
            if value is None or minute <= newest - REVISABLE or value == self._plays[minute & _MASK]:
                continue
            self._plays[minute & _MASK] = value
            changed = min(changed, minute)
        if changed > newest:
            return
        self._sum_up(changed)
        last = (newest + 1) // STEP - 1
        for step in range(changed // STEP, last + 1):
            self._close(step)
        self._set_level(last)

    def _jump(self, newest: Minute) -> None:
        """Go on after a gap that is longer than what is held."""
        last = (newest + 1) // STEP - 1
        if self.newest is not None:
            first = max((self.newest + 1) // STEP, last - DAY_STEPS + 1)
            for step in range(first, last + 1):
                self._sample(step, _UNKNOWN)
        self.newest = newest
        self._hold_nothing()
        self._prune(newest // DAY_MINUTES)
        self._rebuild()

    # Steps.

    def _close(self, step: int) -> None:
        """Put down what the five minutes of a step and the half hour that ends with them show."""
        last = step * STEP + STEP - 1
        sums, counts = self._sums, self._counts
        plays, count = sums[last & _MASK], counts[last & _MASK]
        at = (last - STEP) & _MASK
        if present := count - counts[at]:
            self._put(step, (plays - sums[at]) / present)
        base = self._bases[step % len(self._bases)]
        # Not a number where the base is not known.
        self._ratios[step % _LEVEL_STEPS] = self._mean(step) / base if base != 0 else _UNKNOWN
        # The five minutes in the middle of the half hour, against its mean.
        at, start, end = (last - 30) & _MASK, (last - 18) & _MASK, (last - 13) & _MASK
        sample = _UNKNOWN
        if (present := count - counts[at]) >= 5:
            expected = (plays - sums[at]) / present * (counts[end] - counts[start])
            if expected > 0:
                sample = (sums[end] - sums[start] - expected) ** 2 / expected
        self._sample(step, sample)

    def _put(self, step: int, mean: float) -> None:
        number, position = divmod(step, DAY_STEPS)
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = bytearray(_UNKNOWN_DAY)
            self._prune(number)
        self._known += _unknown(day, position)
        _MEAN.pack_into(day, position * _MEAN.size, min(mean / _UNIT, _MOST))
        self._changed.add(number)

    def _prune(self, today: int) -> None:
        for number in [number for number in self._days if number < today - HISTORY_DAYS]:
            self._known -= _known_steps(self._days.pop(number))
            self._changed.discard(number)

    def _mean(self, step: int) -> float:
        """The mean of the half hour that ends with a step; not a number if nothing is known of it."""
        number, position = divmod(step, DAY_STEPS)
        day = self._days.get(number)
        first = position - _SMOOTH + 1
        if first >= 0:
            if day is None:
                return _UNKNOWN
            means = _MEANS.unpack_from(day, first * _MEAN.size)
        else:
            # It begins in the day before.
            halves = (self._days.get(number - 1) or _UNKNOWN_DAY)[first * _MEAN.size :], day or _UNKNOWN_DAY
            means = _MEANS.unpack_from(b"".join(halves))
        total: float = sum(means)
        if total == total:  # noqa: PLR0124 - a number
            return total * (_UNIT / _SMOOTH)
        known = [mean for mean in means if mean == mean]  # noqa: PLR0124
        return sum(known) * (_UNIT / len(known)) if known else _UNKNOWN

    def _base(self, step: int) -> float:
        """The median over the days before of the half hour that ends with a step; not a number if none is known."""
        means = [self._mean(step - lag * DAY_STEPS) for lag in _LAGS]
        return _median(sorted(mean for mean in means if mean == mean))  # noqa: PLR0124

    def _set_level(self, step: int) -> None:
        ratios = self._ratios
        known = sorted(ratio for ratio in ratios if ratio == ratio)  # noqa: PLR0124
        if not known:
            self._level = 1.0
            return
        high = _LEVEL_HIGH
        if known[-1] > _BURST and any(
            ratios[each % _LEVEL_STEPS] > _BURST for each in range(step - _BURST_STEPS + 1, step + 1)
        ):
            high = _LEVEL_AFTER_BURST
        self._level = min(high, max(_LEVEL_LOW, _median(known)))

    def _sample(self, step: int, sample: float) -> None:
        """Let a sample of the noise take the place of that of a day ago."""
        order, at = self._noise_order, step % DAY_STEPS
        old = self._noise[at]
        if old == old:  # noqa: PLR0124
            del order[bisect_left(order, old)]
        self._noise[at] = sample
        if sample == sample:  # noqa: PLR0124
            # As it is kept: rounded.
            insort(order, self._noise[at])
        self._set_phi()

    def _set_phi(self) -> None:
        order = self._noise_order
        self._phi = max(1.0, _median(order) / _NOISE_MEDIAN) if len(order) >= _NOISE_LEAST else None

    def _rebuild(self) -> None:
        """Work out from the steps what is kept of them beside them."""
        if self.newest is None:
            return
        last = (self.newest + 1) // STEP - 1
        for step in range(last - _LEVEL_STEPS + 1, last + 5):
            self._bases[step % len(self._bases)] = self._base(step)
        for step in range(last - _LEVEL_STEPS + 1, last + 1):
            base = self._bases[step % len(self._bases)]
            self._ratios[step % _LEVEL_STEPS] = self._mean(step) / base if base != 0 else _UNKNOWN
        self._set_level(last)

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
        for first, plays in hours.items():
            for step in range(-(-first // STEP), (first + 60) // STEP):
                number, position = divmod(step, DAY_STEPS)
                if number < today - HISTORY_DAYS:
                    continue
                day = self._days.get(number)
                if day is not None and not _unknown(day, position):
                    continue
                # From the hour's centre to that of the step, in hours; towards the neighbour on that side.
                away = (step * STEP + STEP / 2 - first - 30) / 60
                neighbour = hours.get(first + (60 if away > 0 else -60), plays)
                self._put(step, (plays + abs(away) * (neighbour - plays)) / 60)
        self._rebuild()

    @property
    def known_share(self) -> float:
        """The share of the history's steps that is known, 0 to 1."""
        return min(1.0, self._known / (HISTORY_DAYS * DAY_STEPS))

    def recent(self, minutes: int) -> list[tuple[Minute, float | None, float | None]]:
        """The newest minutes, oldest first, each with its plays and what was forecast.

        Args:
            minutes: How many; there are no more than 128.
        """
        if self.newest is None:
            return []
        return [
            (minute, _or_none(self._plays[minute & _MASK]), _or_none(self._expected[minute & _MASK]))
            for minute in range(self.newest - min(minutes, HELD) + 1, self.newest + 1)
        ]

    @property
    def changed_days(self) -> Collection[int]:
        """The days whose steps have changed since the last `pack`."""
        return frozenset(self._changed)

    def pack(self, days: Collection[int] | None = None) -> Packed:
        """All that is needed to go on later.

        Args:
            days: The days to pack; without it, all.
        """
        wanted = self._days if days is None else days
        packed = Packed(
            self.newest,
            self._plays.tobytes() + self._expected.tobytes(),
            self._noise.tobytes(),
            {number: bytes(day) for number, day in self._days.items() if number in wanted},
        )
        self._changed.clear()
        return packed

    @classmethod
    def unpack(cls, packed: Packed) -> "Track":
        """The track that was packed; its further verdicts are those of the original.

        Raises:
            ValueError: The bytes are not those of a track.
        """
        track = cls()
        split = track._plays.itemsize * HELD
        plays, expected, noise = array("d"), array("f"), array("f")
        plays.frombytes(packed.recent[:split])
        expected.frombytes(packed.recent[split:])
        noise.frombytes(packed.noise)
        days = {number: bytearray(means) for number, means in packed.days.items()}
        if (len(plays), len(expected), len(noise)) != (HELD, HELD, DAY_STEPS) or any(
            len(day) != len(_UNKNOWN_DAY) for day in days.values()
        ):
            raise ValueError("not the bytes of a track")
        track.newest = packed.newest
        track._days = days
        track._known = sum(map(_known_steps, days.values()))
        track._plays, track._expected, track._noise = plays, expected, noise
        track._noise_order = array("f", sorted(sample for sample in noise if not math.isnan(sample)))
        track._set_phi()
        if packed.newest is not None:
            track._prune(packed.newest // DAY_MINUTES)
            track._sum_up(packed.newest - HELD + 2)
            track._rebuild()
        return track

    def _sum_up(self, first: Minute) -> None:
        """Make the sums anew from a minute on."""
        for minute in range(first, (self.newest or 0) + 1):
            here, before = minute & _MASK, (minute - 1) & _MASK
            plays = self._plays[here]
            known = plays == plays  # noqa: PLR0124
            self._sums[here] = self._sums[before] + (plays if known else 0.0)
            self._counts[here] = self._counts[before] + known


def _median(ordered: Sequence[float]) -> float:
    """The median of an ordered sequence; not a number if it is empty."""
    size = len(ordered)
    if not size:
        return _UNKNOWN
    return (ordered[size // 2] + ordered[(size - 1) // 2]) / 2


def _unknown(day: bytearray, position: int) -> bool:
    return math.isnan(_MEAN.unpack_from(day, position * _MEAN.size)[0])


def _known_steps(day: bytearray) -> int:
    return sum(not math.isnan(mean) for (mean,) in _MEAN.iter_unpack(day))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
