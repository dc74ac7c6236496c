"""The newest two hours of a baseline, minute by minute."""

from array import array
from collections.abc import Sequence

from exporter.drops.packed import HELD, MASK, RecentMinutes
from exporter.drops.seasonal import UNKNOWN
from exporter.model import Minute


class MinuteRing:
    """Plays, forecasts and running sums of 128 minutes, by minute modulo 128.

    The detector reads the arrays directly: it does so for each media and minute.

    Attributes:
        plays: The plays of each minute; not a number where they are not known.
        expected: What was forecast for each minute; not a number where nothing was.
        sums: The plays since some start. The plays of a window are one subtraction.
        counts: The minutes present since that start.
    """

    __slots__ = ("counts", "expected", "plays", "sums")

    def __init__(self) -> None:
        """Create one without minutes."""
        self.plays = array("d", [UNKNOWN]) * HELD
        self.expected = array("f", [UNKNOWN]) * HELD
        self.sums = array("d", [0.0]) * HELD
        self.counts = array("q", [0]) * HELD

    @classmethod
    def unpack(cls, recent: RecentMinutes) -> "MinuteRing":
        """The ring with these minutes.

        Raises:
            ValueError: The bytes are not those of a ring.
        """
        ring = cls()
        plays, expected = recent.split()
        ring.plays, ring.expected = array("d", plays), array("f", expected)
        ring.sum_up(recent.newest - HELD + 2, recent.newest)
        return ring

    def pack(self) -> bytes:
        """The plays and forecasts, in this machine's byte order."""
        return self.plays.tobytes() + self.expected.tobytes()

    def revise(self, first: Minute, plays: Sequence[float | None], newest: Minute, reach: int) -> Minute | None:
        """Replace known values of the last `reach` minutes; None leaves a minute as it is.

        Returns:
            The first minute that has changed, if any has.
        """
        changed = None
        for minute, value in enumerate(plays, first):
            if value is None or minute <= newest - reach or value == self.plays[minute & MASK]:
                continue
            self.plays[minute & MASK] = value
            changed = minute if changed is None else changed
        if changed is not None:
            self.sum_up(changed, newest)
        return changed

    def sum_up(self, first: Minute, newest: Minute) -> None:
        """Compute the sums again, from a minute on."""
        for minute in range(first, newest + 1):
            here, before = minute & MASK, (minute - 1) & MASK
            plays = self.plays[here]
            known = plays == plays  # noqa: PLR0124 - a number
            self.sums[here] = self.sums[before] + (plays if known else 0.0)
            self.counts[here] = self.counts[before] + known
