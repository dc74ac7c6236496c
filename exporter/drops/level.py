"""How much more or less than usual a series has had in the last hours."""

from array import array

from exporter.drops.seasonal import UNKNOWN, median_of_sorted

# The level is the median of so many steps: four hours.
LEVEL_STEPS = 48

_LOW, _HIGH = 0.5, 1.5

# After a ratio above this, within so many steps, the level is at most that: a burst ends.
_BURST, _BURST_STEPS, _AFTER_BURST = 2.5, 24, 1.0


class Level:
    """The ratios of the plays to the seasonal profile, and their median within limits.

    Attributes:
        value: The level, 0.5 to 1.5; 1 where it is not known.
    """

    __slots__ = ("_ratios", "value")

    def __init__(self) -> None:
        """Create one without ratios."""
        self._ratios = array("d", [UNKNOWN]) * LEVEL_STEPS
        self.value = 1.0

    def put(self, step: int, half_hour: float, usual: float) -> None:
        """Set the ratio of a step; not a number where either mean is not known."""
        self._ratios[step % LEVEL_STEPS] = half_hour / usual if usual != 0 else UNKNOWN

    def update(self, step: int) -> None:
        """Compute the level as of the newest step."""
        ratios = self._ratios
        known = sorted(ratio for ratio in ratios if ratio == ratio)  # noqa: PLR0124 - a number
        if not known:
            self.value = 1.0
            return
        high = _HIGH
        if known[-1] > _BURST and any(
            ratios[each % LEVEL_STEPS] > _BURST for each in range(step - _BURST_STEPS + 1, step + 1)
        ):
            high = _AFTER_BURST
        self.value = min(high, max(_LOW, median_of_sorted(known)))
