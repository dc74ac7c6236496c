"""Numbers in millionths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.units import LARGEST, UNIT, from_units, to_units


@pytest.mark.parametrize(
    ("value", "units"),
    [
        (0, 0),
        (7, 7_000_000),
        (61.5, 61_500_000),
        (899.123, 899_123_000),
        (0.1 + 0.2, 300_000),  # less than a millionth is rounding
        (0.0000004, 0),
        (1e12, LARGEST),
        (1e12 + 1, None),  # not plausible
        (1e300, None),
        (None, None),
    ],
)
def test_a_value_is_whole_millionths(value: float | None, units: int | None) -> None:
    """A value is rounded once, to millionths; an unknown value, or one above 10^12, stays unknown."""
    assert to_units(value) == units


@given(st.integers(0, 10**12))
def test_whole_numbers_stay_unchanged(value: int) -> None:
    """A whole number is exported as it came, however large."""
    units = to_units(float(value))
    assert units == value * UNIT
    assert from_units(units) == value


@given(st.integers(0, 2**63 - 2))
def test_more_is_never_shown_as_less(units: int) -> None:
    """One millionth more is exported as at least as much: a counter that grows does not fall by its last bit."""
    assert from_units(units + 1) >= from_units(units)
