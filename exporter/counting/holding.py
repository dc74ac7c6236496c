"""Which values of an answer wait: those that cannot be used, and those that nobody would believe at once. Pure.

A value that waits is held: what was counted of its minute and label before stays, until a later answer shows it anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.model import DAY_MINUTES, Minute, MinuteRange, Target
from exporter.units import UNIT

# Start of a minute or day -> label value -> millionths, or None where that is not known.
Cells = Mapping[Minute, Mapping[str, int | None]]

# Start of a minute or day, and a label value.
Cell = tuple[Minute, str]

# A value so many times the largest that was counted waits. A live event may begin with a thousand times what its media
# had before; a wrong number has often many more digits.
IMPLAUSIBLE = 1000

# The plays of a minute that are taken as the largest where fewer were counted, and the seconds that each play lasts:
# 100,000 plays in the first minute are counted at once.
PLAYS = 100 * UNIT
SECONDS_A_PLAY = 60

# Minutes before the revision window that are asked for again and again for the sake of what they hold. More are hardly
# mended, and each makes every answer longer.
MOST_HELD = 60


@dataclass(frozen=True, slots=True)
class Held:
    """A value that waits.

    Attributes:
        value: What the API shows (millionths), or None where that cannot be used.
        since: The newest minute that was counted when it was first shown like that.
    """

    value: int | None
    since: Minute


def largest_plausible(target: Target, peak: int) -> int:
    """The largest value that is counted at once (millionths).

    Args:
        target: What is counted.
        peak: The largest value of a minute or day that the stream has counted so far.
    """
    usual = PLAYS
    if target is Target.PLAY_TIME:
        usual *= SECONDS_A_PLAY
    if target.by_day:
        usual *= DAY_MINUTES
    return IMPLAUSIBLE * max(peak, usual)


def doubt(cells: Cells, held: Mapping[Cell, Held], largest: int, through: Minute, window: int) -> dict[Cell, Held]:
    """The values of an answer that wait.

    Args:
        cells: The answer.
        held: What waited before.
        largest: The largest value that is counted at once.
        through: The newest minute counted, with this answer.
        window: For how many minutes an implausible value must be shown until it is believed.
    """
    doubted = {}
    for slot, values in cells.items():
        for label, value in values.items():
            if value is not None and value <= largest:
                continue
            before = held.get((slot, label))
            goes_on = before is not None and (before.value is None) is (value is None)
            # Minutes that a wrong clock let be counted may have been taken back since.
            since = min(before.since, through) if before is not None and goes_on else through
            if value is None or through - since < window:
                doubted[slot, label] = Held(value, since)
    return doubted


def without(cells: Cells, doubted: Mapping[Cell, Held]) -> Cells:
    """The answer with None for what waits."""
    if not doubted:
        return cells
    return {
        slot: {label: None if (slot, label) in doubted else value for label, value in values.items()}
        for slot, values in cells.items()
    }


def hold(held: Mapping[Cell, Held], doubted: Mapping[Cell, Held], within: MinuteRange) -> dict[Cell, Held]:
    """What is held after an answer, which tells of all minutes within a range, and of no other."""
    kept = {cell: each for cell, each in held.items() if cell[0] not in within}
    return kept | {cell: each for cell, each in doubted.items() if cell[0] in within}


def give_up(
    held: Mapping[Cell, Held], through: Minute, window: int, revisable: Minute, longest: int
) -> tuple[dict[Cell, Held], int]:
    """Let go of what has waited for too long, the oldest first: what is given up lies before all that is held.

    Args:
        held: What is held.
        through: The newest minute counted, with this answer.
        window: For how many minutes a value must have been asked for again, until it counts as one of many.
        revisable: The oldest minute that is asked for in any case; from there on nothing is given up.
        longest: For how many minutes a value may wait.

    Returns:
        What is left, and of how many minutes or days something is given up.
    """
    ages: dict[Minute, int] = {}
    for (slot, _), each in held.items():
        if slot < revisable:
            ages[slot] = max(ages.get(slot, 0), through - each.since)
    many = sum(age >= window for age in ages.values()) - MOST_HELD
    gone = set()
    for slot in sorted(ages):
        one_of_many = ages[slot] >= window and many > 0
        if not one_of_many and ages[slot] < longest:
            break
        gone.add(slot)
        many -= 1
    return {cell: each for cell, each in held.items() if cell[0] not in gone}, len(gone)


def oldest_held(held: Mapping[Cell, Held], default: Minute) -> Minute:
    """The oldest minute that holds something, at most the default."""
    return min(default, *(slot for slot, _ in held)) if held else default
