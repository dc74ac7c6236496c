"""What a baseline shows of one minute: the input of the drop detector."""

from collections.abc import Sequence
from typing import NamedTuple

from exporter.model import Minute

NO_WINDOWS = ((0.0, 0), (0.0, 0), (0.0, 0))


class Observation(NamedTuple):
    """What one minute of a baseline shows. Windows end with the minute; their plays are of the minutes present.

    A tuple, because one is made for each media and minute.

    Attributes:
        minute: The minute.
        r5: The mean plays a minute of the last 5 minutes; 0 where there are fewer than 2.
        forecast: The plays a minute that the baseline's own past predicts; None if too little is known for a verdict,
            or if the minute is missing.
        dispersion: By how much the variance of the plays is more than that of independent viewers; at least 1.
        windows: Plays and minutes present of the last 5, 10 and 30 minutes.
        live: Plays and minutes present of the last 3 minutes and of the 10 before them, then of the last 6 and of the
            10 before these. None if the minute is missing.
        sustained: Plays and minutes present of the last 10, 13, 15, 20 and 30 minutes, and what is forecast from the
            time before these; of those windows alone that have few plays.
    """

    minute: Minute
    r5: float
    forecast: float | None
    dispersion: float
    windows: tuple[tuple[float, int], tuple[float, int], tuple[float, int]]
    live: Sequence[tuple[float, int, float, int]] | None
    sustained: Sequence[tuple[float, int, float]] = ()
