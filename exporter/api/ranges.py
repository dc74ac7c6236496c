"""How long a range to request: if the API refuses a range, or answers too much for it, half of it is tried."""

from exporter.errors import BadRequest, TooLarge

# A refused range of an hour or less is not shortened: the API refused something else.
SHORTEST_RANGE = 60

# A range with too much to read is shortened down to so many minutes. From 3 on, each answer brings new minutes.
SHORTEST_DENSE_RANGE = 4


def half(length: int, shortest: int) -> int | None:
    """Half of a range, but not less than the shortest one; None if it is that short already. All in minutes."""
    return max(shortest, length // 2) if length > shortest else None


class RangeFinder:
    """The longest range that works, found by halves. For one thread at a time.

    Attributes:
        length: The longest range to request next, in minutes.
        dense: Whether it was shortened because there was too much to read, which depends on the rows in it.
        exhausted: Whether the API refused the shortest range, too: then the length is not what it refuses.
    """

    def __init__(self, longest: int, shortest_dense: int = SHORTEST_DENSE_RANGE) -> None:
        """Nothing has been refused.

        Args:
            longest: The range to begin with, in minutes.
            shortest_dense: A range with too much to read is shortened down to so many minutes.
        """
        self.length = longest
        self.dense = False
        self.exhausted = False
        self._works = longest
        self._shortest_dense = shortest_dense

    def shorten(self, length: int, error: BadRequest | TooLarge) -> bool:
        """Try half of a range that failed next; False if it is as short as can be."""
        dense = isinstance(error, TooLarge)
        shorter = half(length, self._shortest_dense if dense else SHORTEST_RANGE)
        if shorter is None:
            self.exhausted |= not dense
            return False
        self.length = shorter
        self.dense |= dense
        return True

    def works(self) -> None:
        """Keep the length: a range was answered."""
        self._works = self.length

    def give_up(self) -> None:
        """Go back to the length that worked last: a shorter one did not help."""
        self.length = self._works
