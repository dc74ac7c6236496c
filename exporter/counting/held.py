"""Values of an answer that are held back: unusable ones, and ones too large to be believed at once. Pure.

While a value is held, the last counted value of its bucket and label value stays in the counter. It is counted once the
API returns a usable value, or has returned the same kind of implausible value for a revision window.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.model import DAY_MINUTES, Minute, MinuteRange, Target
from exporter.units import UNIT

# Bucket -> label value -> millionths, or None if unknown.
Cells = Mapping[Minute, Mapping[str, int | None]]

# Bucket and label value.
Cell = tuple[Minute, str]

# A value this many times the largest counted one is held. A live event can start with a thousand times the plays that
# its media had before; a wrong number often has many more digits.
IMPLAUSIBLE = 1000

# Plays that are taken as the largest in a minute if fewer were counted, and seconds of play time for each. So 100,000
# plays in the first minute are counted at once.
PLAYS = 100 * UNIT
SECONDS_A_PLAY = 60

# Buckets before the revision window that are asked for again because of their held values. More are hardly ever
# corrected, and each makes every answer longer.
MOST_HELD = 60


@dataclass(frozen=True, slots=True)
class Held:
    """A held value.

    Attributes:
        value: What the API returned (millionths), or None if it is unusable.
        since: The newest counted minute when the API first returned it.
    """

    value: int | None
    since: Minute


def largest_plausible(target: Target, peak: int) -> int:
    """The largest value that is counted at once (millionths).

    Args:
        target: What is counted.
        peak: The largest value that the stream has counted in a bucket.
    """
    usual = PLAYS
    if target is Target.PLAY_TIME:
        usual *= SECONDS_A_PLAY
    if target.by_day:
        usual *= DAY_MINUTES
    return IMPLAUSIBLE * max(peak, usual)


def to_hold(cells: Cells, held: Mapping[Cell, Held], largest: int, through: Minute, window: int) -> dict[Cell, Held]:
    """The values of an answer to hold.

    Args:
        cells: The answer.
        held: The values held before it.
        largest: The largest value that is counted at once.
        through: The newest counted minute, this answer included.
        window: Minutes for which an implausible value must be returned before it is believed.
    """
    found = {}
    for bucket, values in cells.items():
        for label, value in values.items():
            if value is not None and value <= largest:
                continue
            before = held.get((bucket, label))
            same_kind = before is not None and (before.value is None) is (value is None)
            # `through` can be before `since`: minutes counted by a wrong clock may have been undone since.
            since = min(before.since, through) if before is not None and same_kind else through
            if value is None or through - since < window:
                found[bucket, label] = Held(value, since)
    return found


def without(cells: Cells, held: Mapping[Cell, Held]) -> Cells:
    """The answer with None in place of the held values."""
    if not held:
        return cells
    return {
        bucket: {label: None if (bucket, label) in held else value for label, value in values.items()}
        for bucket, values in cells.items()
    }


def update_held(held: Mapping[Cell, Held], found: Mapping[Cell, Held], within: MinuteRange) -> dict[Cell, Held]:
    """All held values after an answer that covers the minutes of a range, and no other."""
    kept = {cell: each for cell, each in held.items() if cell[0] not in within}
    return kept | {cell: each for cell, each in found.items() if cell[0] in within}


def expire(
    held: Mapping[Cell, Held], through: Minute, window: int, revisable: Minute, longest: int
) -> tuple[dict[Cell, Held], int]:
    """Drop the values that were held for too long, oldest first: what is dropped is older than all that stays.

    Args:
        held: The held values.
        through: The newest counted minute, this answer included.
        window: Minutes after which a held value counts towards the limit of MOST_HELD.
        revisable: The oldest bucket that is asked for anyway; from there on nothing expires.
        longest: Minutes for which a value may be held.

    Returns:
        The values that stay held, and the number of buckets of which a value expired.
    """
    ages: dict[Minute, int] = {}
    for (bucket, _), each in held.items():
        if bucket < revisable:
            ages[bucket] = max(ages.get(bucket, 0), through - each.since)
    too_many = sum(age >= window for age in ages.values()) - MOST_HELD
    expired = set()
    for bucket in sorted(ages):
        beyond_limit = ages[bucket] >= window and too_many > 0
        if not beyond_limit and ages[bucket] < longest:
            break
        expired.add(bucket)
        too_many -= 1
    return {cell: each for cell, each in held.items() if cell[0] not in expired}, len(expired)
