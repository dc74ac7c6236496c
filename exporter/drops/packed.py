"""A baseline as immutable bytes: for the state file, and for readers that must not wait for the detector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from exporter.model import Minute

# Minutes that are kept one by one: a power of two, more than the longest window, and than a revision reaches.
HELD = 128
MASK = HELD - 1

# The bytes of the plays; those of the forecasts follow.
_PLAYS_SIZE = 8 * HELD
_SIZE = _PLAYS_SIZE + 4 * HELD


class RecentMinutes(NamedTuple):
    """The newest minutes of a baseline, in this machine's byte order.

    Attributes:
        newest: The newest minute.
        content: 128 plays as 8-byte floats, then 128 forecasts as 4-byte floats, each by minute modulo 128.
    """

    newest: Minute
    content: bytes

    def split(self) -> "tuple[memoryview[float], memoryview[float]]":
        """The plays and the forecasts.

        Raises:
            ValueError: The bytes are not those of a baseline's minutes.
        """
        if len(self.content) != _SIZE:
            raise ValueError("not the bytes of a baseline's minutes")
        view = memoryview(self.content)
        return view[:_PLAYS_SIZE].cast("d"), view[_PLAYS_SIZE:].cast("f")

    def last(self, minutes: int) -> list[tuple[Minute, float | None, float | None]]:
        """The newest minutes, oldest first, each with its plays and its forecast; None where one is not known.

        Args:
            minutes: How many, at most 128.

        Raises:
            ValueError: The bytes are not those of a baseline's minutes.
        """
        plays, expected = self.split()
        return [
            (minute, _or_none(plays[minute & MASK]), _or_none(expected[minute & MASK]))
            for minute in range(self.newest - min(minutes, HELD) + 1, self.newest + 1)
        ]


@dataclass(frozen=True, slots=True)
class Packed:
    """A baseline as bytes, for the state file; in this machine's byte order.

    Attributes:
        recent: The newest minutes, None before the first.
        dispersion: The samples of the dispersion of the last day.
        days: Day (minute // 1440) -> the steps of that day.
    """

    recent: RecentMinutes | None
    dispersion: bytes
    days: Mapping[int, bytes]


def _or_none(value: float) -> float | None:
    return value if value == value else None  # noqa: PLR0124 - not a number
