"""How much of the drop detector's history is known."""

import struct
from collections.abc import Mapping

from exporter.drops.seasonal import DAY_STEPS, HISTORY_DAYS


def known_share(days: Mapping[int, bytes]) -> float:
    """The share of the history's steps that is known, 0 to 1."""
    means: list[float] = [mean for day in days.values() for (mean,) in struct.iter_unpack("<e", day)]
    return min(1.0, sum(mean == mean for mean in means) / (HISTORY_DAYS * DAY_STEPS))  # noqa: PLR0124 - a number
