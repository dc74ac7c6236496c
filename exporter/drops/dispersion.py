"""How much one series' plays vary: by how much their variance is more than that of independent viewers."""

import math
from array import array
from bisect import bisect_left, insort

from exporter.drops.seasonal import DAY_STEPS, UNKNOWN, median_of_sorted

# A verdict needs so many samples: an hour.
_LEAST = 12

# The median of the square of a normal variable with variance 1.
_MEDIAN = 0.4549


class Dispersion:
    """The samples of a day, one for each step, and their median."""

    __slots__ = ("_order", "_samples", "excess")

    def __init__(self, packed: bytes | None = None) -> None:
        """Take up what `pack` gave.

        Raises:
            ValueError: The bytes are not those of a day's samples.
        """
        self._samples = array("f", packed) if packed is not None else array("f", [UNKNOWN]) * DAY_STEPS
        if len(self._samples) != DAY_STEPS:
            raise ValueError("not the bytes of a day's dispersion")
        self._order = array("f", sorted(sample for sample in self._samples if not math.isnan(sample)))
        # The factor, at least 1; None while there are too few samples.
        self.excess: float | None = None
        self._find_excess()

    def put(self, step: int, sample: float) -> None:
        """Let a sample take the place of that of a day ago.

        Args:
            step: Of its time: minute // 5.
            sample: (plays - expected)² / expected; not a number if it is not known.
        """
        order, at = self._order, step % DAY_STEPS
        old = self._samples[at]
        if not math.isnan(old):
            del order[bisect_left(order, old)]
        self._samples[at] = sample
        if not math.isnan(sample):
            # As it is kept: rounded.
            insort(order, self._samples[at])
        self._find_excess()

    def _find_excess(self) -> None:
        order = self._order
        # Set in one step: other threads read it.
        self.excess = max(1.0, median_of_sorted(order) / _MEDIAN) if len(order) >= _LEAST else None

    def pack(self) -> bytes:
        """The samples, in this machine's byte order."""
        return self._samples.tobytes()
