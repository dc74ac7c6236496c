"""Weeks of steps, the usual plays at a time of the day, and the noise of a day."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.drops.dispersion import Dispersion
from exporter.drops.seasonal import DAY_STEPS, HISTORY_DAYS, STEP, SeasonalProfile
from exporter.model import DAY_MINUTES
from tests.support.steps import known_share

DAY = 20_000
FIRST = DAY * DAY_STEPS


def test_usual_is_the_median_of_the_days_before() -> None:
    """A spike on one day and an outage on another do not change the usual plays; days outside the lags do not count."""
    steps = SeasonalProfile()
    for days, mean in {1: 10.0, 2: 10.5, 3: 500.0, 4: 0.0, 5: 9.5, 7: 11.0, 21: 10.0, 8: 90.0, 9: 90.0}.items():
        for step in range(6):
            steps.put(FIRST - days * DAY_STEPS - step, mean)
    assert steps.usual(FIRST) == pytest.approx(10.0, rel=0.001)


def test_half_an_hour_reaches_into_the_day_before() -> None:
    """At midnight the mean is of both days, and of the known steps only."""
    steps = SeasonalProfile()
    assert math.isnan(steps.half_hour(FIRST))
    for step, mean in ((FIRST - 2, 4.0), (FIRST - 1, 8.0), (FIRST, 12.0)):
        steps.put(step, mean)
    assert steps.half_hour(FIRST) == 8.0
    assert steps.half_hour(FIRST - 1) == 6.0
    assert steps.half_hour(FIRST - 3) != steps.half_hour(FIRST - 3)


@given(st.floats(0, 1e12))
def test_a_mean_is_kept_to_a_thousandth(mean: float) -> None:
    """Two bytes keep a media's value within 0.1%; above 4 million plays a minute the stored value is the maximum."""
    steps = SeasonalProfile()
    steps.put(FIRST, mean)
    assert steps.half_hour(FIRST) == pytest.approx(min(mean, 65504 * 64), rel=0.001, abs=1e-5)


def test_hours_fill_unknown_steps() -> None:
    """Hours are interpolated between their centers, and never replace measured values."""
    steps = SeasonalProfile()
    steps.put(FIRST + 3, 100.0)
    minute = FIRST * STEP
    steps.fill({minute: 600.0, minute + 60: 1200.0}, DAY)
    means = [steps.half_hour(FIRST + step) for step in range(24)]
    # Before the first center there is only the first hour. The mean of the first steps, then the one with 100.
    assert means[2] == pytest.approx(10.0, rel=0.001)
    assert means[3] == pytest.approx((10 * 3 + 100) / 4, rel=0.001)
    # Half an hour that ends half an hour after the end of the first hour is centered a quarter past its end.
    assert means[17] == pytest.approx(10 * 0.25 + 20 * 0.75, rel=0.001)
    assert means[23] == pytest.approx(20.0, rel=0.001)
    assert known_share(steps.pack()) == pytest.approx(24 / (HISTORY_DAYS * DAY_STEPS))


def test_old_days_are_removed() -> None:
    """22 whole days and the current one are kept, interpolated or measured, and no more."""
    steps = SeasonalProfile()
    steps.fill({day * DAY_MINUTES: 60.0 for day in range(DAY - 50, DAY + 1)}, DAY)
    assert set(steps.pack()) == set(range(DAY - HISTORY_DAYS, DAY + 1))
    steps.put(FIRST + DAY_STEPS, 1.0)
    assert set(steps.pack()) == set(range(DAY - HISTORY_DAYS + 1, DAY + 2))
    assert set(steps.pack({DAY})) == {DAY}
    assert DAY - HISTORY_DAYS not in steps.changed
    steps.prune(DAY + 100)
    assert (steps.pack(), steps.changed) == ({}, set())


def test_bytes_of_another_size_are_refused() -> None:
    """A damaged state file is noticed."""
    with pytest.raises(ValueError, match="not the bytes of a day's steps"):
        SeasonalProfile({DAY: b"ab"})
    with pytest.raises(ValueError, match="not the bytes of a day's dispersion"):
        Dispersion(bytes(8))


def test_noise_needs_an_hour() -> None:
    """With less than twelve samples there is no noise; plays as even as those of independent viewers have 1."""
    noise = Dispersion()
    for step in range(11):
        noise.put(step, 0.1)
    noise.put(11, math.nan)
    assert noise.excess is None
    noise.put(12, 0.1)
    assert noise.excess == 1.0


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1e6)), min_size=12, max_size=700))
def test_noise_is_the_median_of_a_day(samples: list[float]) -> None:
    """A sample replaces that of a day ago, whatever it was; packing changes nothing."""
    noise = Dispersion()
    for step, sample in enumerate(samples):
        noise.put(step, sample)
    known = sorted(sample for sample in samples[-DAY_STEPS:] if not math.isnan(sample))
    if len(known) < 12:
        assert noise.excess is None
    else:
        middle = (known[len(known) // 2] + known[(len(known) - 1) // 2]) / 2
        assert noise.excess == pytest.approx(max(1.0, middle / 0.4549), rel=1e-5)
    assert Dispersion(noise.pack()).excess == noise.excess
