"""The verdict on the observations of minutes."""

import math
from collections.abc import Sequence

import pytest

from exporter.drops.baseline import Baseline, Observation
from exporter.drops.detector import Together, broad, judge, judge_live
from exporter.drops.tracker import Tracker
from exporter.model import Minute
from exporter.views import Incident, IncidentState, Thresholds, Verdict

MIDNIGHT = 20_000 * 1440


def observation(
    *plays: float,
    forecast: float | None = 10.0,
    minute: Minute = MIDNIGHT,
    dispersion: float = 1.0,
    present: Sequence[int] = (5, 10, 30),
    sustained: Sequence[tuple[float, int, float]] = (),
    live: Sequence[tuple[float, int, float, int]] = (),
) -> Observation:
    counts = plays or (50.0, 100.0, 300.0)
    (five, ten, half_hour) = zip(counts, present, strict=True)
    r5 = five[0] / five[1] if five[1] else 0.0
    return Observation(minute, r5, forecast, dispersion, (five, ten, half_hour), live, sustained)


def test_expected_plays_are_no_drop() -> None:
    """Plays down to nine tenths of the expected ones are no evidence at all."""
    assert judge(observation(45.0, 90.0, 270.0)) == Verdict(MIDNIGHT, 0.0, 0.0, 10.0)


def test_unknown_minutes_have_no_verdict() -> None:
    """Without a forecast there is no ratio, rather than a ratio of 0."""
    assert judge(observation(0.0, 0.0, 0.0, forecast=None)) is None


def test_the_largest_ratio_with_evidence_counts() -> None:
    """Five minutes without plays are a complete drop, though the longer windows include earlier plays."""
    verdict = judge(observation(0.0, 50.0, 250.0))
    assert verdict is not None
    assert (verdict.ratio, verdict.expected) == (1.0, 10.0)
    assert verdict.evidence == pytest.approx(45.0)


def test_without_evidence_there_is_no_drop() -> None:
    """A media with rare plays can have none for five minutes by chance; its evidence is shown."""
    verdict = judge(observation(0.0, 8.0, 30.0, forecast=1.0))
    assert verdict is not None
    assert verdict.ratio == 0.0
    assert verdict.evidence == pytest.approx(4.5)


def test_a_quiet_media_drops_in_a_longer_window() -> None:
    """Half an hour without plays is evidence where five minutes are not."""
    verdict = judge(observation(0.0, 0.0, 0.0, forecast=1.0))
    assert verdict is not None
    assert verdict.ratio == 1.0
    assert verdict.evidence == pytest.approx(27.0)


def test_noise_divides_the_evidence() -> None:
    """Plays with six times the variance are a drop only with six times the evidence."""
    quiet, noisy = judge(observation(0.0, 50.0, 250.0)), judge(observation(0.0, 50.0, 250.0, dispersion=6.0))
    assert quiet is not None
    assert noisy is not None
    assert noisy.evidence == pytest.approx(quiet.evidence / 6)
    assert noisy.ratio == 0.0


def test_missing_minutes_are_not_a_drop() -> None:
    """Only minutes that arrived are expected: half of them with half of the plays are as expected."""
    verdict = judge(observation(20.0, 50.0, 150.0, present=(2, 5, 15)))
    assert verdict is not None
    assert verdict.ratio == 0.0
    verdict = judge(observation(0.0, 0.0, 0.0, present=(0, 0, 0)))
    assert verdict is not None
    assert verdict.ratio == 0.0


@pytest.mark.parametrize(
    ("sustained", "factor", "expected"),
    [
        ((15.0, 15, 6.0), 1.0, 1 - 1 / 6),
        ((15.0, 15, 6.0), 0.9, 1 - 1 / 5.4),
        # Not deep enough; a quiet media; without evidence; as expected.
        ((33.0, 15, 6.0), 1.0, 0.0),
        ((0.0, 15, 2.9), 1.0, 0.0),
        ((5.0, 5, 4.0), 1.0, 0.0),
        ((90.0, 15, 6.0), 1.0, 0.0),
    ],
)
def test_a_sustained_drop(sustained: tuple[float, int, float], factor: float, expected: float) -> None:
    """A quarter of an hour with few plays is compared with the plays before it, when the forecast
    has already fallen.
    """
    verdict = judge(observation(5.0, 10.0, 30.0, forecast=1.0, sustained=(sustained,)), factor)
    assert verdict is not None
    assert verdict.ratio == pytest.approx(expected)
    if expected:
        assert verdict.expected == pytest.approx(sustained[2] * factor)


def live(*windows: tuple[float, int, float, int]) -> Verdict:
    verdict = judge_live(observation(live=windows))
    assert verdict is not None
    return verdict


def test_a_running_event_is_compared_with_the_ten_minutes_before() -> None:
    """Three minutes with less than three tenths of the plays before are a drop; a half is normal for events."""
    assert live((60.0, 3, 200.0, 10)) == Verdict(MIDNIGHT, 0.0, 0.0, 20.0)
    none, half = live((0.0, 3, 200.0, 10)), live((60.0, 3, 400.0, 10))
    assert (none.ratio, none.expected) == (1.0, 20.0)
    assert half.ratio == 0.0
    assert half.evidence > 9
    assert live((0.0, 3, 10.0, 10)).ratio == 0.0


def test_a_small_event_drops_in_six_minutes() -> None:
    """If three minutes are too little evidence, six can be enough."""
    assert live((3.0, 3, 60.0, 10), (4.0, 6, 60.0, 10)).ratio == pytest.approx(1 - 4 / 36)
    assert live((3.0, 3, 60.0, 10), (20.0, 6, 60.0, 10)).ratio == 0.0


def test_an_event_needs_minutes_before() -> None:
    """There is no verdict if the ten minutes before are nearly all missing."""
    assert judge_live(observation(live=((0.0, 3, 80.0, 4), (0.0, 0, 80.0, 10)))) is None
    assert live((0.0, 3, 80.0, 4), (0.0, 6, 100.0, 5)).ratio == 1.0


def test_a_broad_drop_is_of_more_than_half() -> None:
    """Media with more than half of the forecast plays must be down; one big media is not the merchant."""
    low, fine = observation(10.0, 20.0, 60.0), observation()
    unknown = observation(0.0, 0.0, 0.0, forecast=None)
    assert broad([low, low, fine, unknown])
    assert not broad([low, fine])
    assert not broad([low, observation(100.0, 200.0, 600.0, forecast=20.0)])
    assert not broad([])


def test_a_sunken_forecast_is_replaced_in_the_sums() -> None:
    """The sums are then those of the media with what was expected before its drop; one without a forecast is added."""
    low, sunken, unknown = observation(10.0, 20.0, 60.0), observation(1.0, 2.0, 6.0, forecast=1.0), observation()
    unknown = unknown._replace(forecast=None)
    together, expected = Together(), Together()
    for each in (low, sunken, unknown):
        together.add(each)
    together.replace(MIDNIGHT, sunken.r5, 1.0, 50.0)
    together.replace(MIDNIGHT, unknown.r5, 0.0, 30.0)
    together.replace(MIDNIGHT + 1, 1.0, 1.0, 50.0)
    for each in (low, sunken._replace(forecast=50.0), unknown._replace(forecast=30.0)):
        expected.add(each)
    (_, *sums), (_, *wanted) = together.by_minute[MIDNIGHT], expected.by_minute[MIDNIGHT]
    assert sums == wanted
    assert list(together.by_minute) == [MIDNIGHT]


def test_a_holiday_lowers_all_forecasts() -> None:
    """If the other media have three quarters of their forecast, this one's expectation is lowered as much; its own
    share is left out.
    """
    together = Together()
    own = observation(0.0, 0.0, 0.0, forecast=100.0)
    together.add(own)
    assert together.factor(own) == 1.0
    for _ in range(3):
        together.add(observation(37.5, 75.0, 225.0))
    assert together.factor(own) == 0.75
    assert together.factor(observation()) < 0.75


@pytest.mark.parametrize(("plays", "factor"), [(200.0, 1.0), (10.0, 0.6)])
def test_the_factor_is_limited(plays: float, factor: float) -> None:
    """More plays than forecast raise no expectation; a fall of all lowers it to six tenths at most."""
    together = Together()
    for _ in range(2):
        together.add(observation(plays, 100.0, 300.0))
    assert together.factor(observation(plays, 100.0, 300.0)) == factor


def test_an_outage_of_all_is_not_a_holiday() -> None:
    """A sudden fall hides no drop: the factor is 1 while all have less than 0.7 of their share ten minutes ago."""
    together = Together()
    for minute, plays in ((0, 50.0), (10, 34.0), (20, 33.0)):
        for _ in range(3):
            together.add(observation(plays, 100.0, 300.0, minute=MIDNIGHT + minute))
    assert together.factor(observation(34.0, 0.0, 0.0, minute=MIDNIGHT + 10)) == 1.0
    assert together.factor(observation(33.0, 0.0, 0.0, minute=MIDNIGHT + 20)) == pytest.approx(0.66)


def test_unknown_minutes_of_the_others_change_nothing() -> None:
    """A minute that no other media has, or that has no forecast, does not change the expectation."""
    together = Together()
    unknown = observation(forecast=None)
    together.add(unknown)
    assert together.factor(unknown) == 1.0
    nothing = observation(0.0, 0.0, 0.0, forecast=0.0)
    together.add(nothing)
    assert together.factor(nothing) == 1.0
    assert together.factor(observation(minute=MIDNIGHT + 1)) == 1.0


def test_old_minutes_are_removed() -> None:
    """At any time the sums are those of the last two hours; late minutes within them still count."""
    together = Together(128)
    for minute in range(1000):
        together.add(observation(minute=MIDNIGHT + minute))
    assert len(together.by_minute) == 128
    late = observation(25.0, 50.0, 150.0, minute=MIDNIGHT + 950)
    together.add(late)
    assert together.factor(observation(minute=MIDNIGHT + 950)) == 0.6


def day_and_night(minute: int) -> float:
    """60 plays a minute in the evening, 20 in the morning, without randomness."""
    return float(round(40 + 20 * math.cos(2 * math.pi * minute / 1440)))


@pytest.mark.parametrize(("share", "delay"), [(0.0, 4), (0.2, 4), (0.5, 6)])
def test_a_drop_is_found_in_minutes_and_night_is_none(share: float, delay: int) -> None:
    """A day and night have no drop, then there is one: it is found within minutes, and ends soon after its end."""
    baseline, tracker = Baseline(), Tracker("a", Thresholds(0.4, 0.6))
    baseline.fill({MIDNIGHT + hour * 60: day_and_night(hour * 60 + 30) * 60 for hour in range(-21 * 24, 0)})
    plays = [day_and_night(minute) for minute in range(2160)]
    plays[2000:2030] = [value * share for value in plays[2000:2030]]
    changes: list[Incident | None] = []
    for at in range(0, len(plays), 30):
        taken = baseline.take(MIDNIGHT + at, plays[at : at + 30])
        changes += [tracker.step(each, tracker.judge(each, 1.0, baseline), baseline) for each in taken]
    begun, ended = [change for change in changes if change]
    assert begun.opened - MIDNIGHT - 2000 == delay
    assert begun.onset - MIDNIGHT == pytest.approx(2000, abs=1)
    assert ended.state is IncidentState.ENDED
    assert ended.minute - MIDNIGHT - 2030 <= 15
