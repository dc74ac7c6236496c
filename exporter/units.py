"""Exact numbers: what is counted is counted in whole millionths, so that sums have no rounding of their own. Pure.

A float is made of a number once, where it is shown. Division rounds correctly, so a greater number is never shown as a
smaller one.
"""

# So many make one play, or one second.
UNIT = 10**6

# One value beyond this cannot be meant.
LARGEST = 10**12 * UNIT

# What the state file can hold.
LARGEST_TOTAL = 2**63 - 1


def to_units(value: float | None) -> int | None:
    """A value of the API, 0 or more, in millionths; None where it is not known, or larger than 10^12."""
    if value is None:
        return None
    # In two parts: a large whole number times a million is more than a float can hold exactly.
    whole = int(value)
    units = whole * UNIT + round((value - whole) * UNIT)
    return units if units <= LARGEST else None


def from_units(units: int) -> float:
    """The number that so many millionths are; whole numbers up to 2^53 are exact."""
    return units / UNIT
