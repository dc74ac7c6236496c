"""The median."""

import math
from collections.abc import Sequence


def median_of_sorted(ordered: Sequence[float]) -> float:
    """The median of sorted numbers; not a number if there are none."""
    size = len(ordered)
    if not size:
        return math.nan
    return (ordered[size // 2] + ordered[(size - 1) // 2]) / 2
