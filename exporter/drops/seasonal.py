"""Weeks of one series' plays in steps of five minutes, and what is usual at a time of the day.

A step takes two bytes, so that the history of hundreds of media fits into memory and the state file.
"""

import math
import struct
from collections.abc import Collection, Mapping, Sequence

from exporter.model import DAY_MINUTES, Minute

STEP = 5
DAY_STEPS = DAY_MINUTES // STEP

# Whole days that are kept, and the day under way.
HISTORY_DAYS = 22

# The days back whose median is usual.
_LAGS = (1, 2, 3, 4, 5, 6, 7, 14, 21)

_HALF_HOUR = 30 // STEP

UNKNOWN = math.nan

# A step's mean is kept in units of 64 plays a minute, with 11 binary digits: up to 4 million plays a minute.
_UNIT, _MOST = 64.0, 65504.0
_MEAN = struct.Struct("<e")
_MEANS = struct.Struct(f"<{_HALF_HOUR}e")
_UNKNOWN_DAY = _MEAN.pack(UNKNOWN) * DAY_STEPS


class SeasonalProfile:
    """Means of the plays a minute, by step: minute // 5. What is not known is not a number."""

    __slots__ = ("_days", "changed")

    def __init__(self, days: Mapping[int, bytes] | None = None) -> None:
        """Take up what `pack` gave.

        Args:
            days: Day (minute // 1440) -> its steps; none, if nothing is known.

        Raises:
            ValueError: The bytes are not those of a day.
        """
        self._days = {number: bytearray(means) for number, means in (days or {}).items()}
        if any(len(day) != len(_UNKNOWN_DAY) for day in self._days.values()):
            raise ValueError("not the bytes of a day's steps")
        # The days of which a step has changed; cleared by who has written them.
        self.changed: set[int] = set()

    def put(self, step: int, mean: float) -> None:
        """Set a step; days that are too old beside it go."""
        number, position = divmod(step, DAY_STEPS)
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = bytearray(_UNKNOWN_DAY)
            self.prune(number)
        _MEAN.pack_into(day, position * _MEAN.size, min(mean / _UNIT, _MOST))
        self.changed.add(number)

    def prune(self, today: int) -> None:
        """Forget what is older than the history of a day."""
        for number in [number for number in self._days if number < today - HISTORY_DAYS]:
            del self._days[number]
            self.changed.discard(number)

    def fill(self, hours: Mapping[Minute, float], today: int) -> None:
        """Fill the steps that are not known with the plays of whole hours, interpolated between their centres.

        Args:
            hours: First minute of a whole hour -> the plays in it.
            today: What is older than the history of this day is left out.
        """
        for first, plays in hours.items():
            for step in range(-(-first // STEP), (first + 60) // STEP):
                number, position = divmod(step, DAY_STEPS)
                day = self._days.get(number)
                if number < today - HISTORY_DAYS or (day is not None and not _unknown(day, position)):
                    continue
                # From the hour's centre to that of the step, in hours; towards the neighbour on that side.
                away = (step * STEP + STEP / 2 - first - 30) / 60
                neighbour = hours.get(first + (60 if away > 0 else -60), plays)
                self.put(step, (plays + abs(away) * (neighbour - plays)) / 60)

    def half_hour(self, step: int) -> float:
        """The mean of the half hour that ends with a step."""
        number, position = divmod(step, DAY_STEPS)
        day = self._days.get(number)
        first = position - _HALF_HOUR + 1
        if first >= 0:
            if day is None:
                return UNKNOWN
            means = _MEANS.unpack_from(day, first * _MEAN.size)
        else:
            # It begins in the day before.
            halves = (self._days.get(number - 1) or _UNKNOWN_DAY)[first * _MEAN.size :], day or _UNKNOWN_DAY
            means = _MEANS.unpack_from(b"".join(halves))
        total: float = sum(means)
        if total == total:  # noqa: PLR0124 - a number
            return total * (_UNIT / _HALF_HOUR)
        known = [mean for mean in means if mean == mean]  # noqa: PLR0124
        return sum(known) * (_UNIT / len(known)) if known else UNKNOWN

    def usual(self, step: int) -> float:
        """The median over the days before of the half hour that ends with a step."""
        means = [self.half_hour(step - lag * DAY_STEPS) for lag in _LAGS]
        return median_of_sorted(sorted(mean for mean in means if mean == mean))  # noqa: PLR0124

    def pack(self, days: Collection[int] | None = None) -> dict[int, bytes]:
        """The days as bytes.

        Args:
            days: Which; without it, all.
        """
        return {number: bytes(day) for number, day in self._days.items() if days is None or number in days}


def _unknown(day: bytearray, position: int) -> bool:
    return math.isnan(_MEAN.unpack_from(day, position * _MEAN.size)[0])


def median_of_sorted(ordered: Sequence[float]) -> float:
    """The median of sorted numbers; not a number if there are none."""
    size = len(ordered)
    return (ordered[size // 2] + ordered[(size - 1) // 2]) / 2 if size else UNKNOWN
