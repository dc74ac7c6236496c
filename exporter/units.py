"""Exact numbers: values are counted in whole millionths, so that sums have no rounding errors. Pure.

A number becomes a float once, where it is exposed. Division rounds correctly, so a larger number is never
exposed as a smaller one.
"""

# Millionths in one play, or in one second.
UNIT = 10**6

# The largest value that is used (millionths); a larger one must be an error.
LARGEST = 10**12 * UNIT

# The largest total that the state file can hold: SQLite's integers have 64 bits.
LARGEST_TOTAL = 2**63 - 1


def to_units(value: float | None) -> int | None:
    """Convert a value of the API, 0 or more, to millionths; None if it is unknown or larger than 10^12."""
    if value is None:
        return None
    # In two parts: a float cannot hold a large whole number times a million exactly.
    whole = int(value)
    units = whole * UNIT + round((value - whole) * UNIT)
    return units if units <= LARGEST else None


def from_units(units: int) -> float:
    """Convert millionths to a number; whole numbers up to 2^53 are exact."""
    return units / UNIT
